package systemd

import (
	"errors"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
)

func TestArgvReplacesVariablesAsSystemdDoes(t *testing.T) {
	u := Unit{
		ExecStart:        [][]string{{"/usr/bin/kubelet", "$TWO", "${TWO}", "x${TWO}y", "$$TWO", "a$TWO", "$NONE", "$EXTRA", "end$"}},
		Environment:      []string{"TWO=--a=1 '--b=2 3'", "EXTRA=old"},
		EnvironmentFiles: []string{"/missing", "/file"},
	}
	read := func(path string) ([]byte, error) {
		if path == "/file" {
			return []byte("# comment\nEXTRA=\"--v=4\"\nnot a line\n"), nil
		}
		return nil, fs.ErrNotExist
	}
	want := []string{"/usr/bin/kubelet", "--a=1", "--b=2 3", "--a=1 '--b=2 3'", "x--a=1 '--b=2 3'y", "$TWO", "a$TWO", "--v=4", "end$"}
	if got := u.Argv(read); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	want[7] = "$EXTRA"
	if got := u.Argv(read, "EXTRA"); !slices.Equal(got, want) {
		t.Errorf("a kept variable: got  %q\nwant %q", got, want)
	}
	if got := (Unit{}).Argv(read); got != nil {
		t.Errorf("no unit: %q", got)
	}
}

func TestLostFlags(t *testing.T) {
	ours := append([]string{"/usr/bin/kubelet"}, service(true).Args...)
	kubeadm := Unit{
		ExecStart: [][]string{{"/usr/bin/kubelet", "$KUBELET_KUBECONFIG_ARGS", "$KUBELET_CONFIG_ARGS", "$KUBELET_KUBEADM_ARGS", "$KUBELET_EXTRA_ARGS"}},
		Environment: []string{"KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf",
			"KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml", "KUBELET_EXTRA_ARGS=--v=2"},
	}
	none := func(string) ([]byte, error) { return nil, errors.New("none") }
	for name, tc := range map[string]struct{ existing, want []string }{
		"the kubeadm package's unit loses nothing": {kubeadm.Argv(none, "KUBELET_EXTRA_ARGS"), nil},
		"a flag in both forms":                     {[]string{"/k", "--node-ip", "10.0.0.1", "--v=2", "--read-only", "--x"}, []string{"--node-ip=10.0.0.1", "--v=2", "--read-only", "--x"}},
		"another value is decided, not lost":       {[]string{"/k", "--config=/x", "--cert_dir=/y"}, nil},
		"each once":                                {[]string{"/k", "--v=2", "--v=3"}, []string{"--v=2"}},
		"one dash is a flag too":                   {[]string{"/k", "-v=2", "--", "word"}, []string{"--v=2"}},
		"a short flag with its value attached":     {[]string{"/k", "-v4", "-vx"}, []string{"--v=4", "--vx"}},
		"no unit":                                  {nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if got := LostFlags(tc.existing, ours); !slices.Equal(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestParseEnvironment(t *testing.T) {
	got := parseEnvironment("A=1\n; c\n# c\n B = two words \nC=\"q u\"\nD='x'\nE=a\\\nb\n1F=no\n=no\nG\nA=2")
	want := map[string]string{"A": "2", "B": "two words", "C": "q u", "D": "x", "E": "ab"}
	if !maps.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func FuzzArgv(f *testing.F) {
	f.Add("$A ${B}", "A=1\nB='2 3'")
	f.Add("$$A${", "A=\\\n")
	f.Fuzz(func(t *testing.T, words, file string) {
		u := Unit{ExecStart: [][]string{append([]string{"/k"}, strings.Fields(words)...)}, EnvironmentFiles: []string{"/f"}}
		argv := u.Argv(func(string) ([]byte, error) { return []byte(file), nil })
		if len(argv) == 0 || argv[0] != "/k" {
			t.Fatalf("%q", argv)
		}
		LostFlags(argv, nil)
	})
}
