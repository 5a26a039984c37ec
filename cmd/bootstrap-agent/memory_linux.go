package main

import (
	"bufio"
	"math"
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// Collecting garbage while the machine is waited for costs a join some
// milliseconds of both processors; at rest memory is what counts.
const (
	collectAtJoin = 400 // percent of the live heap, see debug.SetGCPercent
	collectAtRest = 100
)

// mostMemory is where garbage is collected whatever the limits above say. With the
// pages of the program itself it keeps a server that sends all that it may below
// 32 MiB; a join needs a third of it.
const mostMemory = 16 << 20

// boundMemory sets that limit, unless whoever started the program has set one.
func boundMemory() {
	if debug.SetMemoryLimit(-1) == math.MaxInt64 {
		debug.SetMemoryLimit(mostMemory)
	}
}

// hideMemory keeps token and keys in this process: no core file whatever the
// limits are, and no other process of the same user may trace it or read its
// memory (prctl(2), PR_SET_DUMPABLE). Root with CAP_SYS_PTRACE still can.
//
// Only root's process does it: the files in /proc of such a process belong to
// root, and another user's could not read its own any more.
func hideMemory() error {
	if os.Geteuid() != 0 {
		return nil
	}
	return unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
}

// spendMemory puts off the collection of garbage until giveMemoryBack.
func spendMemory() { debug.SetGCPercent(collectAtJoin) }

// giveMemoryBack lets go of what a join needed and a node at rest does not: the
// heap's free pages, and the pages of the program itself. Those are clean pages
// of a file; the few that are needed come back from the page cache by
// themselves. On every machine of a fleet that is some ten megabytes.
func giveMemoryBack(log *logrus.Logger) {
	debug.SetGCPercent(collectAtRest)
	debug.FreeOSMemory()
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		log.WithError(err).Debug("the program's pages stay mapped")
		return
	}
	defer func() { _ = maps.Close() }()
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		if start, end, ok := readOnlyPages(lines.Text(), program); ok {
			if _, _, errno := unix.Syscall(unix.SYS_MADVISE, start, end-start, unix.MADV_DONTNEED); errno != 0 {
				log.WithError(errno).Debug("the program's pages stay mapped")
			}
		}
	}
}

// readOnlyPages reads a line of /proc/self/maps (proc_pid_maps(5)) and says
// whether it is a part of the program that is never written to: only such pages
// can be read from the file again.
func readOnlyPages(line, program string) (start, end uintptr, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 6 || fields[5] != program || (fields[1] != "r--p" && fields[1] != "r-xp") {
		return 0, 0, false
	}
	from, to, found := strings.Cut(fields[0], "-")
	first, err1 := strconv.ParseUint(from, 16, 64)
	last, err2 := strconv.ParseUint(to, 16, 64)
	if !found || err1 != nil || err2 != nil || last <= first {
		return 0, 0, false
	}
	return uintptr(first), uintptr(last), true
}
