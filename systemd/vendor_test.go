package systemd

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// theirs is somebody else's kubelet.service. KUBELET stands for the program,
// DIR for a scratch folder.
type theirs struct {
	name, unit string
	argv       []string // of the kubelet, without the program; nil: it runs none
	besides    int      // commands that are no kubelet
	broken     bool     // systemd refuses it as it is
	linked     bool     // it lies elsewhere and is linked into the folder
	alias      bool     // kubelet.service is another name of it
}

var theirUnits = []theirs{
	{name: "quotes, continued lines, specifiers and prefixes", unit: `[Service]
Type=exec
Environment="TWO=--b=1 '--c=2 3'"
# a comment between
ExecStart=-KUBELET --a="x y" \
  # and one in between
  '--quote=it"s' \
  --percent=50%% --unit=%n \
  $TWO "${TWO}" --tab=\x41
[Install]
WantedBy=multi-user.target
`, argv: []string{"--a=x y", `--quote=it"s`, "--percent=50%", "--unit=kubelet.service", "--b=1", "--c=2 3", "--b=1 '--c=2 3'", "--tab=A"}},
	{name: "another name in argv[0]", unit: "[Service]\nExecStart=@KUBELET hyperkube --a=1\n[Install]\nWantedBy=multi-user.target\n", argv: []string{"--a=1"}},
	{name: "several commands", unit: `[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/mkdir -p DIR/made
ExecStart=KUBELET --a=1
[Install]
WantedBy=multi-user.target
`, argv: []string{"--a=1"}, besides: 1},
	{name: "several commands where systemd takes one", unit: "[Service]\nExecStart=/bin/true\nExecStart=KUBELET --a=1\n[Install]\nWantedBy=multi-user.target\n",
		argv: []string{"--a=1"}, besides: 1, broken: true},
	{name: "a shell", unit: "[Service]\nExecStart=/bin/sh -c 'exec KUBELET --a=1 --b=2'\n[Install]\nWantedBy=multi-user.target\n", besides: 1},
	{name: "a wrapper", unit: "[Service]\nExecStart=/usr/bin/env KUBELET --a=1\n[Install]\nWantedBy=multi-user.target\n", besides: 1},
	{name: "conditions and asserts of another way to join", unit: `[Unit]
ConditionPathExists=/nonexistent
ConditionKernelCommandLine=nonexistent
AssertPathExists=/nonexistent
StartLimitIntervalSec=1h
StartLimitBurst=1
[Service]
Type=exec
ExecCondition=/bin/false
ExecStart=KUBELET
Restart=no
[Install]
WantedBy=multi-user.target
`, argv: []string{}},
	{name: "preparations", unit: "[Service]\nExecStartPre=/bin/mkdir DIR/prepared\nExecStart=KUBELET --a=1\n[Install]\nWantedBy=multi-user.target\n", argv: []string{"--a=1"}},
	{name: "no install section", unit: "[Service]\nExecStart=KUBELET\n", argv: []string{}},
	{name: "a link to a file elsewhere", unit: "[Service]\nExecStart=KUBELET --a=1\n[Install]\nWantedBy=multi-user.target\n", argv: []string{"--a=1"}, linked: true},
	{name: "another name of another unit", unit: "[Service]\nExecStart=KUBELET --a=1\n[Install]\nWantedBy=multi-user.target\n", argv: []string{"--a=1"}, alias: true},
}

// Whatever somebody else's unit looks like: a real systemd reads it, we see what
// its kubelet gets and what else it does, take it over by our drop-in alone, and
// the kubelet then runs with our arguments and nobody else's.
func TestARealSystemdRunsOurKubeletInEveryKindOfUnit(t *testing.T) {
	for _, tt := range theirUnits {
		t.Run(tt.name, func(t *testing.T) {
			m, units := live(t)
			s, dir := kubelet(t, "run")
			program := filepath.Join(dir, "kubelet")
			if err := os.Symlink(s.Binary, program); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(units, KubeletUnit)
			file := path
			if tt.alias {
				file = filepath.Join(units, "snap.kubelet.daemon.service")
			}
			if tt.linked {
				file = filepath.Join(dir, "theirs.service")
			}
			if file != path {
				if err := os.Symlink(file, path); err != nil {
					t.Fatal(err)
				}
			}
			write(t, file, strings.NewReplacer("KUBELET", program, "DIR", dir).Replace(tt.unit))
			long := time.Unix(1_000_000_000, 0)
			if err := os.Chtimes(file, long, long); err != nil {
				t.Fatal(err)
			}
			before, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}

			e, err := m.Existing(soon(t), units)
			if err != nil || e.Owner != OwnerAlien || e.Path != path || e.Unit.LoadState == "loaded" == tt.broken {
				t.Fatalf("%s %s %s, %v", e.Owner, e.Path, brief(e.Unit), err)
			}
			if got := e.Unit.Besides(); len(got) != tt.besides {
				t.Errorf("beside a kubelet it runs %q", got)
			}
			if runs := e.Unit.Kubelet(); runs != program && tt.argv != nil || runs != "" && tt.argv == nil {
				t.Errorf("its kubelet is %q", runs)
			}
			if got := e.Unit.Argv(os.ReadFile, ExtraArgs); tt.argv != nil && !slices.Equal(got[1:], tt.argv) {
				t.Errorf("its kubelet gets %q", got)
			}

			write(t, s.Condition, "x")
			s.Binary, s.Alien, s.Read, s.Args = program, true, e.Read, []string{"--ours=1"}
			if changed, err := install(t, m, units, rendered(t, s), true); err != nil || !changed {
				t.Fatalf("changed %t, %v", changed, err)
			}
			u, err := m.Start(soon(t), KubeletUnit)
			if err != nil || !u.Running() || u.Disabled() || u.UnitFileState == "static" {
				t.Errorf("%s, %v", brief(u), err)
			}
			if wants, err := os.ReadDir(filepath.Join(units, "multi-user.target.wants")); err != nil || len(wants) != 1 {
				t.Errorf("enabled by %v, %v", wants, err)
			}
			if got, err := os.ReadFile(filepath.Join(dir, "argv")); err != nil || string(got) != "--ours=1" {
				t.Errorf("the kubelet got %q, %v", got, err)
			}
			if _, err := os.Stat(filepath.Join(dir, "prepared")); (err == nil) != strings.Contains(tt.unit, "ExecStartPre") {
				t.Errorf("its preparations: %v", err)
			}
			after, err := os.ReadFile(file)
			info, statErr := os.Stat(file)
			if err := errors.Join(err, statErr); err != nil || string(after) != string(before) || !info.ModTime().Equal(long) {
				t.Errorf("it was touched (%v):\n%s", err, after)
			}
			if strings.Contains(tt.unit, "RemainAfterExit=yes") {
				if ended := afterItsEnd(t, m, u); ended.SubState != "auto-restart" {
					t.Errorf("when it has ended it is %s (%s)", ended.ActiveState, ended.SubState)
				}
			}
			if again, err := m.Existing(soon(t), units); err != nil || again.Owner != OwnerAlien || !slices.Equal(again.Read, e.Read) {
				t.Errorf("looked at again: %s, reads %q, %v", again.Owner, again.Read, err)
			}
		})
	}
}

// afterItsEnd ends the kubelet in order and returns what becomes of its unit.
func afterItsEnd(t *testing.T, m *Manager, u Unit) Unit {
	t.Helper()
	if u.MainPID == 0 {
		t.Fatal("it has no process") // and 0 would be our own group
	}
	if err := syscall.Kill(int(u.MainPID), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	ctx := soon(t)
	for {
		now, err := m.Unit(ctx, KubeletUnit)
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains([]string{"auto-restart", "exited", "dead", "failed"}, now.SubState) {
			return now
		}
		select {
		case <-ctx.Done():
			t.Fatal("it does not end")
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// An environment file that their unit must have and that is missing is theirs to
// mend: the start fails with systemd's own reason.
func TestARealSystemdTellsOfTheirMissingEnvironmentFile(t *testing.T) {
	m, units := live(t)
	s, _ := kubelet(t, "run")
	write(t, s.Condition, "x")
	write(t, filepath.Join(units, KubeletUnit), "[Service]\nEnvironmentFile=/nonexistent\nExecStart=/usr/bin/kubelet\n")
	s.Alien = true
	if _, err := install(t, m, units, rendered(t, s), true); err != nil {
		t.Fatal(err)
	}
	u, err := m.Start(soon(t), KubeletUnit)
	var je *JobError
	if !errors.As(err, &je) || fault.ReasonOf(err) != fault.KubeletFailed || u.Result != "resources" {
		t.Errorf("%s, %v", brief(u), err)
	}
}

// hostileEnvironment is an EnvironmentFile= with every kind of quoting.
const hostileEnvironment = `# a comment \
that goes on
; another
A=plain
 B = "two words"  
C='single "quoted"'
D="a\"b\\c\$d\e" 'and more'
E=it's --x="y z"
F=one\
 two\ three\"
G="across
lines"
H=  trailing blanks   	
I=
1J=no name
K
L=--a=1 "--b=2 3" '--c'	--d=\
4
M=a # no comment
N=\
`

// What we read out of environment files is what a real systemd makes of them.
func TestARealSystemdReadsEnvironmentFilesAsWeDo(t *testing.T) {
	m, units := live(t)
	s, dir := kubelet(t, "run")
	program := filepath.Join(dir, "kubelet")
	if err := os.Symlink(s.Binary, program); err != nil {
		t.Fatal(err)
	}
	file := write(t, filepath.Join(dir, "theirs"), hostileEnvironment)
	var words []string
	for _, name := range strings.Split("A B C D E F G H I K L M N O", " ") {
		words = append(words, "$"+name, `"`+name+`=${`+name+`}"`)
	}
	write(t, filepath.Join(units, KubeletUnit), "[Service]\nType=notify\nEnvironment=A=overridden O=stays\nEnvironmentFile="+s.EnvironmentFiles[0]+"\nEnvironmentFile=-"+file+
		"\nEnvironmentFile=-/nonexistent\nExecStart="+program+" "+strings.Join(words, " ")+"\n")
	u, err := m.Start(soon(t), KubeletUnit)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "argv"))
	if err != nil {
		t.Fatal(err)
	}
	got, want := u.Argv(os.ReadFile)[1:], strings.Split(string(text), "\x00")
	if !slices.Equal(got, want) {
		t.Errorf("we say      %q\nsystemd says %q", got, want)
	}
	if got := u.Words(os.ReadFile, "L"); !slices.Equal(got, []string{"--a=1", "--b=2 3", "--c", "--d=4"}) {
		t.Errorf("words %q", got)
	}
}

// Our drop-in reads the administrator's files without taking its place from a
// file that the vendor's unit, or a person's own drop-in, reads later; and what
// it reads does not change when it is looked at again.
func TestEnvironmentFilesKeepTheirOrder(t *testing.T) {
	const mine = "/etc/kubelet-mine.env"
	for name, tc := range map[string]struct{ unit, want string }{
		"a unit that reads none":                    {"", "/etc/default/kubelet /etc/sysconfig/kubelet /var/lib/kubelet/proxy.env"},
		"a unit that reads one of them":             {"EnvironmentFile=-/etc/default/kubelet\n", "/etc/default/kubelet /etc/sysconfig/kubelet /var/lib/kubelet/proxy.env"},
		"a file of a person's own is read after it": {"EnvironmentFile=-/etc/default/kubelet\nEnvironmentFile=-" + mine + "\n", "/etc/default/kubelet " + mine + " /etc/sysconfig/kubelet /var/lib/kubelet/proxy.env"},
	} {
		t.Run(name, func(t *testing.T) {
			m, units := live(t)
			write(t, filepath.Join(units, KubeletUnit), "[Service]\nExecStart=/usr/bin/kubelet\n"+tc.unit)
			for range 2 {
				e, err := m.Existing(soon(t), units)
				if err != nil {
					t.Fatal(err)
				}
				s := service(true)
				s.Read = e.Read
				if _, err := install(t, m, units, rendered(t, s), false); err != nil {
					t.Fatal(err)
				}
				u, err := m.Unit(soon(t), KubeletUnit)
				if got := strings.Join(u.EnvironmentFiles, " "); err != nil || got != tc.want {
					t.Errorf("reads %s, %v", got, err)
				}
			}
		})
	}
}

func TestExtraArgsAreThoseOfTheFileThatIsReadLast(t *testing.T) {
	files := map[string]string{"/etc/default/kubelet": "KUBELET_EXTRA_ARGS=--v=2 --node-ip=10.0.0.1\n", "/mine": "KUBELET_EXTRA_ARGS='--v=3'\n"}
	read := func(path string) ([]byte, error) {
		if text, ok := files[path]; ok {
			return []byte(text), nil
		}
		return nil, os.ErrNotExist
	}
	for name, tc := range map[string]struct {
		e    Existing
		want string
	}{
		"no unit":                      {Existing{Owner: OwnerNone}, "--v=2 --node-ip=10.0.0.1"},
		"a variable of the unit":       {Existing{Unit: Unit{Environment: []string{"KUBELET_EXTRA_ARGS=--v=9"}}}, "--v=2 --node-ip=10.0.0.1"},
		"a file that is read after it": {Existing{Read: []string{"/etc/default/kubelet", "/mine"}}, "--v=3"},
		"a file that is read before":   {Existing{Read: []string{"/mine"}}, "--v=2 --node-ip=10.0.0.1"},
	} {
		if got := strings.Join(tc.e.ExtraArgs(read), " "); got != tc.want {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestARealSystemdRefusesToRunAMaskedKubelet(t *testing.T) {
	m, units := live(t)
	if err := os.Symlink(os.DevNull, filepath.Join(units, KubeletUnit)); err != nil {
		t.Fatal(err)
	}
	if e, err := m.Existing(soon(t), units); fault.ReasonOf(err) != fault.UnitMasked {
		t.Errorf("%+v, %v", e, err)
	}
	if _, err := install(t, m, units, rendered(t, service(false)), true); fault.ReasonOf(err) != fault.UnitMasked {
		t.Errorf("install: %v", err)
	}
	if entries, err := os.ReadDir(filepath.Join(units, KubeletUnit+".d")); !os.IsNotExist(err) {
		t.Errorf("files were written beside a masked unit: %v, %v", entries, err)
	}
}
