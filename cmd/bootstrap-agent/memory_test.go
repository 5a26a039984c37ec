package main

import (
	"io"
	"os"
	"testing"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

func TestARootsProcessCannotBeDumped(t *testing.T) {
	before, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Prctl(unix.PR_SET_DUMPABLE, uintptr(before), 0, 0, 0) })
	if err := hideMemory(); err != nil {
		t.Fatal(err)
	}
	want := 0
	if os.Geteuid() != 0 {
		want = before // it could not read its own /proc any more
	}
	if after, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || after != want {
		t.Errorf("dumpable is %d (%v), was %d", after, err, before)
	}
	// What the program reads of itself it still can.
	if _, err := os.ReadFile("/proc/self/smaps_rollup"); err != nil {
		t.Error(err)
	}
}

func TestOnlyPagesThatAreNeverWrittenAreGivenBack(t *testing.T) {
	const program = "/usr/bin/bootstrap-agent"
	for line, want := range map[string]bool{
		"00400000-00ba8000 r-xp 00000000 00:29 901253   /usr/bin/bootstrap-agent": true,
		"00ba8000-0130c000 r--p 007a8000 00:29 901253   /usr/bin/bootstrap-agent": true,
		"0130c000-01388000 rw-p 00f0c000 00:29 901253   /usr/bin/bootstrap-agent": false,
		"00400000-00ba8000 r-xp 00000000 00:29 901253   /usr/lib/other.so":        false,
		"35aa9ac00000-35aa9b400000 rw-p 00000000 00:00 0":                         false,
		"zz-zz r-xp 00000000 00:29 901253   /usr/bin/bootstrap-agent":             false,
		"00ba8000-00400000 r-xp 00000000 00:29 901253   /usr/bin/bootstrap-agent": false,
		"": false,
	} {
		if _, _, ok := readOnlyPages(line, program); ok != want {
			t.Errorf("%q: %t", line, ok)
		}
	}
}

func TestTheProgramGoesOnAfterItsMemoryWasGivenBack(t *testing.T) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	for range 3 {
		giveMemoryBack(log)
		if exampleConfig() == "" {
			t.Fatal("nothing is left")
		}
	}
}
