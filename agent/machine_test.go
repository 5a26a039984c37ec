package agent

import (
	"os"
	"path/filepath"
	"testing"
)

func TestReadMachine(t *testing.T) {
	root := t.TempDir()
	for path, data := range map[string]string{
		"proc/sys/kernel/random/boot_id": "11111111-2222-3333-4444-555555555555\n", "etc/machine-id": "ABC\n",
	} {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const proc, systemd = "11111111-2222-3333-4444-555555555555", "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
	for given, want := range map[string]string{
		"": proc, "%b": proc, "aaaa": proc, "zzaaaaaabbbbccccddddeeeeeeeeeeee": proc,
		"AAAAAAAABBBBCCCCDDDDEEEEEEEEEEEE": systemd, systemd: systemd,
	} {
		m := ReadMachine(root, given)
		if m.BootID != want || m.MachineID != "abc" || m.UUID != "" {
			t.Errorf("%q: %+v", given, m)
		}
	}
}

func TestAMachineIDThatIsNotOnTheDiskIsOfOneBoot(t *testing.T) {
	for mounts, want := range map[string]bool{
		"": false,
		"36 25 0:30 / /etc rw - ext4 /dev/a rw\n":                                        false,
		"36 25 0:30 /machine-id /etc/machine-id ro,nosuid - tmpfs tmpfs rw\n":            true,
		"36 25 0:30 /x /mnt/etc/machine-id ro - tmpfs tmpfs rw\n":                        false,
		"36 25 0:30 /machine-id /etc/machine-id.d ro,nosuid shared:1 - tmpfs tmpfs rw\n": false,
	} {
		root := t.TempDir()
		mustWrite(t, filepath.Join(root, "proc/self/mountinfo"), mounts)
		if m := ReadMachine(root, ""); m.Transient != want {
			t.Errorf("%q: %+v", mounts, m)
		}
	}
}
