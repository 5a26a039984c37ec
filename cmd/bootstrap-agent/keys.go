package main

import (
	"strings"
)

// kind is the type a key's value must have in the file. Nothing is converted.
type kind string

const (
	kindString kind = "string"
	kindBool   kind = "true or false"
	kindList   kind = "list of strings"
	kindEnum   kind = "one of"
)

// key is one row of the table from which everything about a config key comes:
// the judge, the flags, the variables, the example config, man page and docs.
type key struct {
	name    string   // as in the file; a dot stands for a section
	kind    kind     //
	def     any      // string, bool or []string; never nil
	enum    []string // the words of a kindEnum
	flag    string   // "": no flag
	noEnv   bool     // true: no variable
	secret  bool     // its value is never shown
	sep     string   // between the elements of a list in a variable; "": comma
	example string   // YAML, in the example config where the default says little
	doc     string   // whole sentences
	rule    rule     // nil: the kind says it all
}

const (
	apiVersion        = "bootstrap-agent/v1"
	defaultConfigFile = "/etc/bootstrap-agent/config.yaml"
	defaultTokenFile  = "/etc/bootstrap-agent/token" //nolint:gosec // a path, not a token
	envPrefix         = "BOOTSTRAP_AGENT_"
)

// keys is the table, in the order of the example config. A key stands here from
// the day it works.
func keys() []key {
	return []key{
		{name: "apiVersion", kind: kindEnum, enum: []string{apiVersion}, def: apiVersion, noEnv: true,
			doc: "The form of this file."},
		{name: "endpoints", kind: kindList, def: []string{}, flag: "endpoint", rule: (*judge).endpoints,
			example: `["10.0.0.1:6443", "api.example.org:6443", "[fd00::1]:6443"]`,
			doc:     "API servers, as host or host:port (6443 if not said). Several are tried side by side; the first one that can be trusted wins. Required, unless discoveryFile names the cluster."},
		{name: "discoveryFile", kind: kindString, def: "", flag: "discovery-file", rule: (*judge).discoveryFile,
			example: `"/etc/bootstrap-agent/cluster.kubeconfig"`,
			doc: "A kubeconfig with server and CA, in place of endpoints: where anonymous access to cluster-info is closed, or where the cluster hands out a bootstrap-kubeconfig. " +
				"Its CA is trusted without a pin; caCertHashes, when given, must match it. With a token in it, it must be readable by root alone (0600). It is read anew when it changes."},
		{name: "tokenFile", kind: kindString, def: defaultTokenFile, flag: "token-file", rule: (*judge).tokenFile,
			doc: "File with the bootstrap token, readable by root alone (0600). It is read anew when it changes. After it, the systemd credentials bootstrap-token and bootstrap-token-encrypted, the key token and the user of discoveryFile are asked. With discoveryFile it may hold any bearer token."},
		{name: "token", kind: kindString, def: "", noEnv: true, secret: true, rule: (*judge).token,
			example: `"abcdef.0123456789abcdef"`,
			doc:     "The bootstrap token itself, only in a config file that root alone may read (0600). Better: tokenFile. It has neither flag nor variable, and it excludes tokenFile."},
		{name: "removeTokenAfterJoin", kind: kindBool, def: false, flag: "remove-token-after-join",
			doc: "Remove the token file once the machine has joined with the token in it; one that holds another token stays. It must lie where the agent may write: below /etc/bootstrap-agent, as it does by default."},
		{name: "caCertHashes", kind: kindList, def: []string{}, flag: "ca-cert-hash", rule: (*judge).pins,
			example: `["sha256:0000000000000000000000000000000000000000000000000000000000000000"]`,
			doc:     "Pins of the cluster's CA: sha256 over its public key, as kubeadm prints them. Only pinned CAs are trusted at first contact. Without a pin the join stops and shows the pins seen."},
		{name: "unsafeSkipCAVerification", kind: kindBool, def: false, flag: "unsafe-skip-ca-verification", rule: (*judge).unsafe,
			doc: "Trust whatever CA the token's signature vouches for, without a pin. Everybody who knows a token of this cluster can then pretend to be it."},
		{name: "server", kind: kindString, def: "", flag: "server", rule: (*judge).server,
			example: `"https://api.example.org:6443"`,
			doc:     "URL of the API server for this node. Empty: the one that cluster-info names."},
		{name: "proxyURL", kind: kindString, def: "", secret: true, rule: (*judge).proxy,
			example: `"http://proxy.example.org:3128"`,
			doc:     "Proxy for the agent and the kubelet on the way to the API server: http, https or socks5. With a password in it, this file must be readable by root alone (0600). The usual variables (HTTPS_PROXY) are not asked."},
		{name: "noProxy", kind: kindString, def: "", rule: (*judge).noProxy,
			example: `"10.0.0.0/8,.internal.example.org"`,
			doc:     "Hosts and networks that are reached without the proxy, with commas between them."},
		{name: "nodeName", kind: kindString, def: "", flag: "node-name", rule: (*judge).nodeName,
			example: `"worker-1"`,
			doc:     "Name of the Node: an RFC 1123 name, lower case. Empty: the host name in lower case."},
		{name: "nodeIP", kind: kindString, def: "", flag: "node-ip", rule: (*judge).nodeIP,
			example: `"10.0.0.17"`,
			doc:     "Address that the kubelet reports, or two of them (IPv4,IPv6). Empty: the kubelet finds it."},
		{name: "nodeLabels", kind: kindList, def: []string{}, flag: "node-label", rule: (*judge).nodeLabels,
			example: `["example.org/rack=r7", "node.kubernetes.io/instance-type=m2"]`,
			doc:     "Labels that the Node gets when it registers. In the domains kubernetes.io and k8s.io only those that a kubelet may set itself."},
		{name: "nodeTaints", kind: kindList, def: []string{}, flag: "node-taint", rule: (*judge).nodeTaints,
			example: `["example.org/gpu=true:NoSchedule"]`,
			doc:     "Taints that the Node gets when it registers: key[=value]:Effect."},
		{name: "nodeNameTakeover", kind: kindBool, def: false, flag: "node-name-takeover",
			doc: "Take the node name even when another live machine is registered under it."},
		{name: "afterJoin", kind: kindEnum, enum: []string{"heal", "observe", "exit"}, def: "heal", flag: "after-join",
			doc: "What the agent does once the machine is a node: heal what it safely can, observe and report only, or exit."},
		{name: "repair", kind: kindBool, def: false, flag: "repair",
			doc: "Bring files of the node that somebody edited, or that a newer agent or this file would write differently, back by itself (see apply). Needs afterJoin: heal."},
		{name: "restartSplay", kind: kindString, def: "30m", flag: "restart-splay", rule: (*judge).restartSplay,
			doc: "When a change in the cluster makes every node restart its kubelet, each machine waits for a time of its own within this one, from 0s to 24h."},
		{name: "caRotation", kind: kindEnum, enum: []string{"follow", "pinned"}, def: "follow", flag: "ca-rotation", rule: (*judge).caRotation,
			doc: "What becomes of other CAs that the cluster shows a joined node, over a connection that verifies under those it holds: follow takes them (caCertHashes decide the first contact only), pinned takes them once the pin of each is in caCertHashes."},
		{name: "clusterDNS", kind: kindList, def: []string{}, flag: "cluster-dns", rule: (*judge).clusterDNS,
			example: `["10.96.0.10"]`,
			doc:     "Addresses of the cluster's DNS, only used when neither kubelet.configFile nor the cluster has a kubelet config."},
		{name: "clusterDomain", kind: kindString, def: "cluster.local", flag: "cluster-domain", rule: (*judge).clusterDomain,
			doc: "Domain of the cluster's DNS, only used like clusterDNS."},
		{name: "metricsAddress", kind: kindString, def: "", flag: "metrics-address", rule: (*judge).metricsAddress,
			example: `"127.0.0.1:9464"`,
			doc:     "Where the agent answers GET /metrics for Prometheus, as IP:port: an address of this machine, best the loopback one, for everybody who reaches it may read. Empty: nowhere; the same stands in /run/bootstrap-agent/metrics.prom in any case."},
		{name: "log.level", kind: kindEnum, enum: []string{"error", "warning", "info", "debug"}, def: "info", flag: "log-level",
			doc: "How much goes to the log (stderr)."},
		{name: "log.format", kind: kindEnum, enum: []string{"text", "json"}, def: "text", flag: "log-format",
			doc: "How a line of the log is written."},
		{name: "kubelet.binary", kind: kindString, def: "", flag: "kubelet-binary", rule: (*judge).program,
			example: `"/usr/local/bin/kubelet"`,
			doc:     "The kubelet. Empty: the one that an existing kubelet.service runs, else looked for in /usr/bin, /usr/local/bin, /opt/bin."},
		{name: "kubelet.configFile", kind: kindString, def: "", flag: "kubelet-config-file", rule: (*judge).path,
			example: `"/etc/bootstrap-agent/kubelet.yaml"`,
			doc:     "A KubeletConfiguration of your own, instead of the cluster's (ConfigMap kube-system/kubelet-config) or the built-in one."},
		{name: "kubelet.configDir", kind: kindString, def: "", flag: "kubelet-config-dir", rule: (*judge).path,
			example: `"/etc/kubernetes/kubelet.conf.d"`,
			doc:     "The kubelet's own --config-dir: drop-ins that it lays over its configuration. Passed on when the folder exists."},
		{name: "kubelet.containerRuntimeEndpoint", kind: kindString, def: "", flag: "container-runtime-endpoint", rule: (*judge).runtimeEndpoint,
			example: `"unix:///run/containerd/containerd.sock"`,
			doc:     "Socket of the container runtime. Empty: what the kubelet config says, else the first known socket that answers."},
		{name: "kubelet.servingCertificate", kind: kindEnum, enum: []string{"", "self-signed", "cluster"}, def: "", flag: "kubelet-serving-certificate",
			example: `"cluster"`,
			doc:     "The kubelet's serving certificate: made by itself, or asked from the cluster (somebody has to approve it). Empty: what the kubelet config says."},
		{name: "kubelet.clientCAFile", kind: kindString, def: "", flag: "kubelet-client-ca-file", rule: (*judge).path,
			example: `"/etc/kubernetes/pki/client-ca.crt"`,
			doc:     "CA of those who may talk to the kubelet. Empty: what the kubelet config says, else the cluster's CA. Needed where the API server's clients have another CA than the one in cluster-info; check --cluster tells."},
		{name: "kubelet.extraArgs", kind: kindList, def: []string{}, flag: "kubelet-extra-arg", sep: " ", rule: (*judge).extraArgs,
			example: `["--v=2"]`,
			doc:     "More words for the kubelet's command line. Flags that the agent sets itself are refused."},
		{name: "kubelet.dropFlags", kind: kindBool, def: false, flag: "kubelet-drop-flags",
			doc: "Take over a machine whose kubelet.service has flags or commands of its own, or whose kubelet has a config.yaml of its own, even though they get lost."},
	}
}

// env returns the name of the key's variable, or "".
func (k key) env() string {
	if k.noEnv {
		return ""
	}
	lower := func(c byte) bool { return c >= 'a' && c <= 'z' }
	upper := func(c byte) bool { return c >= 'A' && c <= 'Z' }
	var b strings.Builder
	b.WriteString(envPrefix)
	for i := range len(k.name) {
		c := k.name[i]
		// A word begins at nodeName's N and at the F of clientCAFile.
		if i > 0 && upper(c) && (lower(k.name[i-1]) || upper(k.name[i-1]) && i+1 < len(k.name) && lower(k.name[i+1])) {
			b.WriteByte('_')
		}
		switch {
		case c == '.':
			c = '_'
		case lower(c):
			c -= 'a' - 'A'
		}
		b.WriteByte(c)
	}
	return b.String()
}

// split parts the name at its dot: "log", "level".
func (k key) split() (section, leaf string) {
	if s, l, ok := strings.Cut(k.name, "."); ok {
		return s, l
	}
	return "", k.name
}

// nearest returns the candidate a mistyped word most likely means, or "".
func nearest(word string, candidates []string) string {
	best, bestDistance := "", 1+len(word)/3
	for _, c := range candidates {
		if strings.EqualFold(word, c) {
			return c
		}
		if d := distance(strings.ToLower(word), strings.ToLower(c)); d <= bestDistance && (best == "" || d < bestDistance) {
			best, bestDistance = c, d
		}
	}
	return best
}

// distance is the number of letters to add, drop, change or swap.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}

// showable says whether a word from the outside may stand in a message: a
// mistyped key is worth showing, but a secret in its place is not. Keys and
// flags have no digits; tokens and pins do.
func showable(word string) bool {
	if word == "" || len(word) > 40 {
		return false
	}
	for _, r := range word {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && r != '-' && r != '_' {
			return false
		}
	}
	return true
}
