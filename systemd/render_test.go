package systemd

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func service(alien bool) KubeletService {
	return KubeletService{
		Binary: "/usr/bin/kubelet",
		Args: []string{"--config=/var/lib/kubelet/config.yaml", "--kubeconfig=/var/lib/kubelet/kubeconfig", "--cert-dir=/var/lib/kubelet/pki",
			"--rotate-certificates=true", "--hostname-override=node-1", "--node-labels=example.org/zone=a", `--odd=50% of "$HOME"`},
		After:            []string{"containerd.service"},
		Condition:        "/var/lib/kubelet/kubeconfig",
		EnvironmentFiles: []string{"/var/lib/kubelet/proxy.env"},
		Alien:            alien,
	}
}

func rendered(t testing.TB, s KubeletService) Rendered {
	t.Helper()
	r, err := Render(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRenderedFilesAreTheGoldenOnes(t *testing.T) {
	own, alien := rendered(t, service(false)), rendered(t, service(true))
	for name, got := range map[string][]byte{
		"kubelet.service": own.Unit, "own.conf": own.DropIn, "alien.conf": alien.DropIn,
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join("testdata", name)
			if os.Getenv("UPDATE_GOLDEN") != "" {
				if err := os.WriteFile(path, got, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("differs from %s (UPDATE_GOLDEN=1 writes it anew):\n%s", path, got)
			}
		})
	}
	if alien.Unit != nil {
		t.Error("a unit was rendered where there is somebody else's")
	}
}

func TestUnitAndDropInSayTheSame(t *testing.T) {
	r := rendered(t, service(false))
	without := func(data []byte) []assignment {
		return slices.DeleteFunc(parseUnitFile(string(data)), func(a assignment) bool {
			switch a.key {
			case "Description", "Documentation", "Environment":
				return true
			case "RemainAfterExit": // what a unit says that does not say it
				return a.value == "no"
			case "EnvironmentFile": // only in the unit: a drop-in of a person's own may read a later file
				return a.value == "-/etc/default/kubelet" || a.value == "-/etc/sysconfig/kubelet"
			}
			return a.value == ""
		})
	}
	if unit, dropIn := without(r.Unit), without(r.DropIn); !slices.Equal(unit, dropIn) {
		t.Errorf("unit %v\ndrop-in %v", unit, dropIn)
	}
	if !slices.Equal(r.ExecStart, rendered(t, service(false)).ExecStart) || !bytes.Equal(r.DropIn, rendered(t, service(false)).DropIn) {
		t.Error("the same value gave other bytes")
	}
}

func TestOurDropInWinsOverKubeadms(t *testing.T) {
	vendor, kubeadm := testdata(t, "vendor.service"), testdata(t, "10-kubeadm.conf")
	r := rendered(t, service(true))
	commands := values("Service", "ExecStart", vendor, kubeadm, string(r.DropIn))
	if len(commands) != 1 {
		t.Fatalf("%d commands", len(commands))
	}
	argv, err := splitExec(commands[0])
	if err != nil || !slices.Equal(argv[0], r.ExecStart) {
		t.Fatalf("%v %q", err, argv)
	}
	got := atStart(argv[0], "KUBELET_KUBECONFIG_ARGS=--kubeconfig=/etc/kubernetes/kubelet.conf", "KUBELET_EXTRA_ARGS=--v=4 --node-ip=10.0.0.1")
	want := append(append([]string{"/usr/bin/kubelet"}, service(true).Args...), "--v=4", "--node-ip=10.0.0.1")
	if !slices.Equal(got, want) {
		t.Errorf("the kubelet gets %q", got)
	}
	if got := values("Unit", "ConditionPathExists", vendor, string(r.DropIn)); !slices.Equal(got, []string{"/var/lib/kubelet/kubeconfig"}) {
		t.Errorf("conditions: %q", got)
	}
	if after := values("Unit", "After", vendor, string(r.DropIn)); len(after) != 2 {
		t.Errorf("the vendor's After= is lost: %q", after)
	}
	last := func(section, key string) string {
		all := values(section, key, vendor, kubeadm, string(r.DropIn))
		return all[len(all)-1]
	}
	for key, want := range map[string]string{"Type": "notify", "Restart": "always", "RestartSec": "10", "TimeoutStartSec": "5min"} {
		if got := last("Service", key); got != want {
			t.Errorf("%s=%s", key, got)
		}
	}
	if last("Unit", "StartLimitIntervalSec") != "0" || last("Install", "WantedBy") != "multi-user.target" {
		t.Error("start limit or install section")
	}
}

func testdata(t testing.TB, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestRenderRefusesAndNamesEveryFault(t *testing.T) {
	s := service(false)
	s.Binary = "kubelet"
	s.Args = append(s.Args, "--x=a\nExecStartPre=/bin/sh")
	s.After = []string{"containerd.service\nRequires=x.service"}
	s.Condition = "kubeconfig"
	s.EnvironmentFiles = []string{"-/x"}
	r, err := Render(s)
	if err == nil {
		t.Fatal("rendered")
	}
	if r.DropIn != nil || r.Unit != nil {
		t.Error("something was rendered all the same")
	}
	for _, part := range []string{"cannot write kubelet.service", `"kubelet" is no absolute`, "control character U+000A", "no name of a unit", `"kubeconfig" is no`, `"-/x" is no`} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in: %v", part, err)
		}
	}
}

func TestOnlyOurHeaderIsOurs(t *testing.T) {
	r := rendered(t, service(false))
	if !Ours(r.Unit) || !Ours(r.DropIn) {
		t.Error("our own files are not known again")
	}
	for _, text := range []string{"", "\n" + headerMark, "[Unit]\n" + headerMark, "# written by bootstrap-agent.", testdata(t, "vendor.service")} {
		if Ours([]byte(text)) {
			t.Errorf("%q counts as ours", text)
		}
	}
}

func FuzzRender(f *testing.F) {
	for _, text := range []string{"a", "$X", "a\nb", "%n", `"`, "; x", "#"} {
		f.Add(text, "containerd.service", "/k")
	}
	f.Fuzz(func(t *testing.T, arg, after, condition string) {
		r, err := Render(KubeletService{Binary: "/k", Args: []string{arg, "--last"}, After: []string{after}, Condition: condition})
		if err != nil {
			return
		}
		for _, file := range []string{string(r.Unit), string(r.DropIn)} {
			commands, err := splitExec(values("Service", "ExecStart", file)[0])
			if err != nil || len(commands) != 1 || !slices.Equal(commands[0], r.ExecStart) {
				t.Fatalf("%v: %q, want %q", err, commands, r.ExecStart)
			}
			if n := len(values("Unit", "ConditionPathExists", file)) + len(values("Unit", "After", file)) + len(values("Service", "Restart", file)); n != 3 {
				t.Fatalf("a value left its line:\n%s", file)
			}
		}
	})
}
