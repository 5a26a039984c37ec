package kubelet

import (
	"slices"
	"strings"
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

func TestArguments(t *testing.T) {
	got := Arguments(Spec{
		NodeName: "worker-1", ConfigDir: "/etc/kubelet.d", NodeIP: "10.0.0.7,fd00::7",
		Labels: []Label{{"b", "2"}, {"a", "1"}}, Extra: []string{"--v=4", "--root-dir=/srv/my kubelet"},
	})
	golden(t, "arguments", []byte(strings.Join(got, "\n")+"\n"))
	got = Arguments(Spec{Layout: Layout{Dir: "/srv/k"}, NodeName: "w"})
	want := []string{"--config=/srv/k/config.yaml", "--kubeconfig=/srv/k/kubeconfig", "--cert-dir=/srv/k/pki", "--rotate-certificates=true", "--hostname-override=w"}
	if !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

func TestExtraArgs(t *testing.T) {
	if err := CheckExtraArgs([]string{"--v=4", "-v=4", "--root-dir=/srv/a b", "--not-known-here=x", "--seccomp-default", "--register-node=false"}); err != nil {
		t.Error(err)
	}
	if err := CheckExtraArgs(nil); err != nil {
		t.Error(err)
	}
	for entry, rule := range map[string]string{
		"":                                       "empty",
		" ":                                      "no flag",
		"4":                                      "no flag",
		"/bin/sh":                                "no flag",
		"-":                                      "names no flag",
		"--":                                     "names no flag",
		"--=x":                                   "names no flag",
		"--v=4\n[Service]":                       "control character",
		"--v=\x00":                               "control character",
		"--v=\x7f":                               "control character",
		"--v=\u0085":                             "control character",
		"--v=\xff":                               "control character",
		"--config=/x":                            "kubelet.configFile",
		"-config=/x":                             "kubelet.configFile",
		"--config":                               "kubelet.configFile",
		"--config-dir=/x":                        "kubelet.configDir",
		"--kubeconfig=/x":                        "managed",
		"--bootstrap-kubeconfig=/x":              "agent itself",
		"--bootstrap_kubeconfig=/x":              "agent itself",
		"--cert-dir=/x":                          "managed",
		"--rotate-certificates=false":            "managed",
		"--hostname_override=x":                  "nodeName",
		"--node-labels=a=b":                      "nodeLabels",
		"--node-ip=1.2.3.4":                      "nodeIP",
		"--register-with-taints=a":               "nodeTaints",
		"--container-runtime-endpoint=unix:///x": "containerRuntimeEndpoint",
		"--help":                                 "print",
		"-h":                                     "print",
		"--version":                              "print",
		"--x=" + strings.Repeat("x", 200_000):    "bytes",
	} {
		err := CheckExtraArgs([]string{"--v=2", entry})
		wantFault(t, err, fault.ConfigInvalid, "kubelet.extraArgs[1]", rule)
	}
	err := CheckExtraArgs([]string{"--kubeconfig=hush", "x"})
	wantFault(t, err, fault.ConfigInvalid, "extraArgs[0]", "extraArgs[1]")
	if strings.Contains(err.Error(), "hush") {
		t.Errorf("shows the value: %v", err)
	}
}

func TestEveryFlagHasAKey(t *testing.T) {
	for flag, want := range map[string]string{
		"--node-ip=10.0.0.1": "nodeIP", "--node_labels=a=b": "nodeLabels", "--config": "kubelet.configFile",
		"--runtime-cgroups=/x": "kubelet.extraArgs", "--v=2": "kubelet.extraArgs",
	} {
		if got := KeyFor(flag); got != want {
			t.Errorf("%s: %s", flag, got)
		}
	}
}

func TestWhatAnAdministratorAddsMustNotTakeTheIdentityAway(t *testing.T) {
	ours := Arguments(Spec{Layout: Layout{Dir: "/k"}, NodeName: "node-1"})
	for words, want := range map[string]string{
		"": "",
		"--v=3 --node-ip=10.0.0.1 --node-labels=a=b --max-pods 42": "",
		"--hostname-override=node-1 --config=/k/config.yaml":       "",
		"--hostname-override node-1 --rotate-certificates":         "",
		"--hostname-override=other":                                "--hostname-override=other",
		"--hostname_override other --v=2":                          "--hostname-override=other",
		"--kubeconfig=/x --rotate-certificates=false":              "--kubeconfig=/x --rotate-certificates=false",
		"--bootstrap-kubeconfig=/x --cert-dir=/y":                  "--bootstrap-kubeconfig=/x --cert-dir=/y",
		"--config=/x":          "--config=/x",
		"--config":             "--config=",
		"--version -h":         "--version=-h -h",
		"kubeconfig=/x config": "",
		"--config-dir=/x --container-runtime-endpoint=unix:///x": "",
	} {
		if got := strings.Join(Overridden(strings.Fields(words), ours), " "); got != want {
			t.Errorf("%s: %q", words, got)
		}
	}
}

func FuzzCheckExtraArgs(f *testing.F) {
	for _, seed := range []string{"--v=4", "--config=x", "", "-", "--a\n", "--node_labels=x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, entry string) {
		if CheckExtraArgs([]string{entry}) != nil {
			return
		}
		if entry == "" || control(entry) || entry[0] != '-' || managed[flagName(entry)] != "" || keyOf[flagName(entry)] != "" {
			t.Errorf("passed: %q", entry)
		}
	})
}
