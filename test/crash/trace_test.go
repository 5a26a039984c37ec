package crash

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

func TestATraceIsReadAsStraceWritesIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "trace")
	text := `101 openat(AT_FDCWD</x>, "/a/.bootstrap-agent-tmp-1", O_WRONLY|O_CREAT|O_EXCL|O_CLOEXEC, 0600) = 9</a/.bootstrap-agent-tmp-1>
101 write(9</a/.bootstrap-agent-tmp-1>, "k\n\0\1772\"\\,(\t", 10) = 10
101 fchmod(9</a/.bootstrap-agent-tmp-1>, 0644) = 0
101 fsync(9</a/.bootstrap-agent-tmp-1> <unfinished ...>
102 unlinkat(AT_FDCWD</x>, "/a/gone", 0) = -1 ENOENT (No such file or directory)
102 symlinkat("/a/k", AT_FDCWD</x>, "/a/l") = 0
101 <... fsync resumed>)            = 0
101 renameat(AT_FDCWD</x>, "/a/.bootstrap-agent-tmp-1", AT_FDCWD</x>, "/a/k") = 0
102 connect(11<socket:[7]>, {sa_family=AF_INET, sin_port=htons(6443), sin_addr=inet_addr("127.0.0.1")}, 16) = -1 EINPROGRESS (Operation now in progress)
102 pwrite64(8</a/lock>, "12\n", 3, 4) = 3
102 --- SIGURG {si_signo=SIGURG} ---
101 openat(6</a b>, ".bootstrap-agent-tmp-2", O_PATH|O_NOFOLLOW|O_CLOEXEC) = 9</a b/.bootstrap-agent-tmp-2>
101 renameat(6</a b>, ".bootstrap-agent-tmp-2", 6</a b>, "k") = 0
101 symlinkat("/a/k", 6</a b>, "l") = 0
101 unlinkat(6</a b>, "l", 0) = 0
102 fchmodat(AT_FDCWD</x>, "/a", 0700) = 0
102 +++ exited with 0 +++
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := ReadTrace(path)
	if err != nil {
		t.Fatal(err)
	}
	tmp := "/a/.bootstrap-agent-tmp-1"
	want := Trace{
		{Begin: 1, End: 1, Call: "open", Path: tmp, Flags: "O_WRONLY|O_CREAT|O_EXCL|O_CLOEXEC", Mode: 0o600},
		{Begin: 2, End: 2, Call: "write", Path: tmp, Data: "k\n\x00\x7f2\"\\,(\t"},
		{Begin: 3, End: 3, Call: "chmod", Path: tmp, Mode: 0o644},
		{Begin: 6, End: 6, Call: "symlink", Path: "/a/l", To: "/a/k"},
		{Begin: 4, End: 7, Call: "fsync", Path: tmp},
		{Begin: 8, End: 8, Call: "rename", Path: tmp, To: "/a/k"},
		{Begin: 9, End: 9, Call: "connect", Path: "socket:[7]", Data: `{sa_family=AF_INET, sin_port=htons(6443), sin_addr=inet_addr("127.0.0.1")}`},
		{Begin: 10, End: 10, Call: "write", Path: "/a/lock", Data: "12\n", At: 4},
		{Begin: 12, End: 12, Call: "open", Path: "/a b/.bootstrap-agent-tmp-2", Flags: "O_PATH|O_NOFOLLOW|O_CLOEXEC"},
		{Begin: 13, End: 13, Call: "rename", Path: "/a b/.bootstrap-agent-tmp-2", To: "/a b/k"},
		{Begin: 14, End: 14, Call: "symlink", Path: "/a b/l", To: "/a/k"},
		{Begin: 15, End: 15, Call: "unlink", Path: "/a b/l"},
		{Begin: 16, End: 16, Call: "chmod", Path: "/a", Mode: 0o700},
	}
	if len(got) != len(want) {
		t.Fatalf("%d calls, want %d: %+v", len(got), len(want), got)
	}
	for i := range want {
		if !reflect.DeepEqual(got[i], want[i]) {
			t.Errorf("got  %+v\nwant %+v", got[i], want[i])
		}
	}
}
