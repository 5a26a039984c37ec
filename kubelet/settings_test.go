package kubelet

import (
	"reflect"
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

func TestSettings(t *testing.T) {
	yes, no := true, false
	for name, c := range map[string]struct {
		in   Layers
		want Settings
	}{
		"nothing known":         {Layers{}, Settings{}},
		"a file that says much": {Layers{Config: []byte("failSwapOn: false\nfailCgroupV1: true\nprotectKernelDefaults: true\ncgroupDriver: systemd\naddress: 10.0.0.1\nport: 10350\n")}, Settings{true, &no, &yes, true, "systemd", "10.0.0.1", 10350}},
		"a drop-in over nothing": {Layers{DropIns: [][]byte{[]byte("failSwapOn: false\n")}},
			Settings{FailSwapOn: &no}},
		"a drop-in over the file": {Layers{Config: []byte("failSwapOn: true\nport: 1\n"), DropIns: [][]byte{nil, []byte("failSwapOn: false\n")}},
			Settings{Complete: true, FailSwapOn: &no, Port: 1}},
		"arguments over everything": {Layers{Config: []byte("failSwapOn: false\ncgroupDriver: systemd\n"),
			Args: []string{"--fail-swap-on", "--fail_cgroupv1=false", "--protect-kernel-defaults=true", "--cgroup-driver=cgroupfs", "--port=2", "--address=::", "--v=2"}},
			Settings{true, &yes, &no, true, "cgroupfs", "::", 2}},
		"values of a wrong kind": {Layers{Config: []byte("failSwapOn: maybe\nport: 99999999\ncgroupDriver: 1\n"), Args: []string{"--fail-swap-on=perhaps", "--port=x", "plain"}}, Settings{Complete: true}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := c.in.Settings()
			if err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("%+v, %v, want %+v", got, err, c.want)
			}
		})
	}
	for text, in := range map[string]Layers{"kubelet configuration": {Config: []byte("{{")}, "drop-in 1": {DropIns: [][]byte{[]byte("- x")}}} {
		_, err := in.Settings()
		wantFault(t, err, fault.ConfigInvalid, text)
	}
}

func TestSkew(t *testing.T) {
	v := func(minor int) Version { return Version{1, minor, "v1.x"} }
	for name, c := range map[string]struct {
		kubelet, server Version
		fine            bool
	}{
		"the same":        {v(36), v(36), true},
		"three older":     {v(33), v(36), true},
		"four older":      {v(32), v(36), false},
		"one newer":       {v(36), v(35), false},
		"the next major":  {Version{2, 0, "v2.0.0"}, v(36), false},
		"the last major":  {v(36), Version{2, 0, "v2.0.0"}, false},
		"kubelet unknown": {Version{}, v(36), true},
		"server unknown":  {v(36), Version{}, true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := c.kubelet.Skew(c.server); (got == "") != c.fine {
				t.Errorf("%q", got)
			}
		})
	}
	if got, err := ParseServerVersion("v1.33.4-gke.100"); err != nil || got != (Version{1, 33, "v1.33.4-gke.100"}) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", "1.36", "v1.36.3\x1b", "Kubernetes v1.36.3"} {
		if got, err := ParseServerVersion(bad); err == nil {
			t.Errorf("%q: %+v", bad, got)
		}
	}
	if !v(36).AtLeast(36) || v(35).AtLeast(36) || !(Version{Major: 2}).AtLeast(36) || (Version{}).AtLeast(1) {
		t.Error("AtLeast")
	}
}
