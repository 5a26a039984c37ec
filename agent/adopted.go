package agent

import (
	"slices"
	"strings"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

// A machine that was taken over (agent/adopt) has a kubelet whose configuration is
// somebody else's, and stays so: kubeadm writes it at each upgrade. The agent reads
// it, and neither renders nor judges it.

// takeAdopted puts into use what is on record of that.
func (a *Agent) takeAdopted() {
	if adopted := a.manifest.Adopted; adopted != nil {
		a.files.Config = adopted.Config
	}
}

// theirs: a file of somebody else's that the agent knows and lets be.
func (a *Agent) theirs(path string) bool {
	adopted := a.manifest.Adopted
	return adopted != nil && (path == adopted.Config || slices.Contains(adopted.Theirs, path))
}

// adoptedArguments are flags that elsewhere stand in the kubelet's configuration,
// and variables whose value is written by somebody else.
func (a *Agent) adoptedArguments() (flags []string) {
	if a.manifest.Adopted == nil {
		return nil
	}
	if endpoint := a.cfg.Kubelet.RuntimeEndpoint; endpoint != "" {
		flags = append(flags, "--container-runtime-endpoint="+endpoint)
	}
	if taints := a.cfg.NodeTaints; len(taints) > 0 {
		words := make([]string, len(taints))
		for i, taint := range taints {
			words[i] = taint.String()
		}
		flags = append(flags, "--register-with-taints="+strings.Join(words, ","))
	}
	return flags
}

func (a *Agent) adoptedVariables() []string {
	if a.manifest.Adopted == nil {
		return nil
	}
	return a.manifest.Adopted.Variables
}

// AdoptedService is what kubelet.service becomes on a machine that is taken over
// with this config: what the agent itself will make of it later.
func AdoptedService(cfg Config, deps Deps, adopted record.Adopted, unit systemd.Unit) (systemd.KubeletService, error) {
	a, err := New(cfg, deps)
	if err != nil {
		return systemd.KubeletService{}, err
	}
	a.manifest.Adopted = &adopted
	a.takeAdopted()
	a.memory.unit = unit
	return a.service()
}

// AdoptedTrust is the trust record of such a machine: the cluster that its
// kubeconfig names, taken on the word of whoever joined it.
func AdoptedTrust(cfg Config, server, ca string, pins []string, machine Machine) *record.Trust {
	t := &record.Trust{Server: server, CA: ca, CAPins: pins, NodeName: cfg.NodeName, Machine: machine}
	t.Endpoints, t.Pins = grounds(cfg)
	if len(cfg.Endpoints) > 0 {
		t.Endpoint = cfg.Endpoints[0].String()
	}
	return t
}
