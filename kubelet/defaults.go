package kubelet

import "fmt"

// Default is one line of the configuration that a node gets when neither the
// operator nor the cluster says anything. docs/operations.md lists them.
type Default struct {
	Key    string
	Value  string // as in the file; in words where it depends on the machine
	Reason string
}

// builtIn is a Default with the way to its value; no value, no line.
type builtIn struct {
	Default
	value func(RenderInput) (any, bool)
}

func fixed(v any) func(RenderInput) (any, bool) {
	return func(RenderInput) (any, bool) { return v, true }
}

// builtIns returns the table. What a kubelet decides by itself and decides well
// (eviction, image collection, timings) is left to it: its defaults change with
// its version, and should.
func builtIns() []builtIn {
	return []builtIn{
		{Default{"authentication.anonymous.enabled", "false",
			"Nobody talks to the kubelet without a name. The kubelet's flags still default to true."}, fixed(false)},
		{Default{"authentication.webhook.enabled", "true",
			"Callers with a token (metrics-server, Prometheus) are told apart by asking the API server."}, fixed(true)},
		{Default{"authorization.mode", "Webhook",
			"What a caller may do is the API server's decision. The other mode, AlwaysAllow, lets every caller run commands in every container."}, fixed("Webhook")},
		{Default{"readOnlyPort", "0",
			"The old port without authentication stays shut."}, fixed(0)},
		{Default{"cgroupDriver", "that of the container runtime, else systemd",
			"Kubelet and runtime must agree, or Pods do not start or are killed again and again. A kubelet from 1.31 asks the runtime itself where the runtime can answer (containerd 2, CRI-O 1.28) and ignores this line; " +
				"for older kubelets the agent asks it (CRI's RuntimeConfig), and where the runtime cannot answer reads what it is configured to use (containerd 1 unconfigured: cgroupfs). Where nothing tells: systemd, as kubeadm does, because a machine under systemd should have one manager of cgroups."},
			func(in RenderInput) (any, bool) { return in.cgroupDriver(), true }},
		{Default{"clusterDNS", "`clusterDNS` of the agent's configuration",
			"A node cannot find the cluster's DNS service by itself. Without it Pods use the node's resolver and know no Services; the agent warns."},
			func(in RenderInput) (any, bool) { return anys(in.ClusterDNS), len(in.ClusterDNS) > 0 }},
		{Default{"clusterDomain", "`clusterDomain` of the agent's configuration (cluster.local)",
			"The search domain of Pods must be the cluster's own."},
			func(in RenderInput) (any, bool) { return in.ClusterDomain, in.ClusterDomain != "" }},
	}
}

// setOnTop is what is set whatever the source; RenderConfig does it, this table
// tells it.
func setOnTop() []Default {
	return []Default{
		{"rotateCertificates", "true",
			"Always: without it the node is lost when its certificate expires."},
		{"authentication.x509.clientCAFile", "`kubelet.clientCAFile`, else the cluster's CA",
			"Where the source has none that exists here: without it the API server cannot read logs or run exec. The CA of cluster-info is right where it also signs client certificates."},
		{"containerRuntimeEndpoint", "`kubelet.containerRuntimeEndpoint`, else the socket that answers",
			"Where the source has none that exists here."},
		{"registerWithTaints", "`nodeTaints`",
			"Where the source has none: taints must be there from the first moment, or Pods slip in before."},
		{"resolvConf", "/run/systemd/resolve/resolv.conf",
			"Where the source has none that exists here and systemd-resolved runs: its stub at 127.0.0.53 cannot be reached from a Pod."},
		{"serverTLSBootstrap", "by `servingCertificate`",
			"Only when `servingCertificate` is set: self-signed means false, cluster means true (somebody must then approve the requests)."},
	}
}

// BuiltInDefaults returns every setting that can end in the kubelet's
// configuration without the operator or the cluster having written it, in the
// order of the documentation.
func BuiltInDefaults() []Default {
	var out []Default
	for _, b := range builtIns() {
		out = append(out, b.Default)
	}
	return append(out, setOnTop()...)
}

func (in RenderInput) builtInDocument() (document, error) {
	doc := document{"apiVersion": configVersion, "kind": configKind}
	for _, b := range builtIns() {
		if v, ok := b.value(in); ok {
			if err := doc.set(b.Key, v); err != nil {
				return nil, fmt.Errorf("cannot render the built-in defaults: %w", err)
			}
		}
	}
	return doc, nil
}

func anys(in []string) []any {
	out := make([]any, len(in))
	for i, s := range in {
		out[i] = s
	}
	return out
}
