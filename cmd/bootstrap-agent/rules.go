package main

import (
	"fmt"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/net/http/httpproxy"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/discovery"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
)

// rule judges one key beyond its kind and puts what it means into j.cfg.
type rule func(j *judge, s setting)

// judge goes through the keys once and collects everything that is wrong.
type judge struct {
	app      *app
	settings settings
	broken   map[string]bool // keys whose kind is wrong already
	cfg      agent.Config
	inline   discovery.Token
	problems []problem
	absent   []problem // files that may still come; only a check counts them
	hint     string    // a remedy that is better than the general one
	warnings []string
}

// config applies every rule of the table and returns the typed config; it is
// only good if no problem was found.
func (j *judge) config() agent.Config {
	s := j.settings
	for _, one := range s {
		if one.key.rule != nil && !j.broken[one.key.name] {
			one.key.rule(j, one)
		}
	}
	j.tokens()
	j.cfg.UnsafeSkipCAVerification = s.flag("unsafeSkipCAVerification")
	j.cfg.NodeNameTakeover = s.flag("nodeNameTakeover")
	j.cfg.AfterJoin = agent.AfterJoin(s.text("afterJoin"))
	if j.cfg.Repair = s.flag("repair"); j.cfg.Repair && j.cfg.AfterJoin != agent.AfterJoinHeal {
		j.warnings = append(j.warnings, "repair: does nothing unless afterJoin is heal")
	}
	j.cfg.Kubelet = agent.KubeletConfig{
		Binary:             s.text("kubelet.binary"),
		ConfigFile:         s.text("kubelet.configFile"),
		ConfigDir:          s.text("kubelet.configDir"),
		RuntimeEndpoint:    s.text("kubelet.containerRuntimeEndpoint"),
		ServingCertificate: s.text("kubelet.servingCertificate"),
		ClientCAFile:       s.text("kubelet.clientCAFile"),
		ExtraArgs:          s.list("kubelet.extraArgs"),
		DropFlags:          s.flag("kubelet.dropFlags"),
	}
	j.cfg.Paths = j.app.paths
	return j.cfg
}

func (j *judge) fault(s setting, format string, args ...any) {
	j.problems = append(j.problems, problem{s.at, s.key.name, fmt.Sprintf(format, args...)})
}

// element is a fault in one element of a list.
func (j *judge) element(s setting, i int, format string, args ...any) {
	at := s.at
	if i < len(s.lines) {
		at.line = s.lines[i]
	}
	j.problems = append(j.problems, problem{at, fmt.Sprintf("%s[%d]", s.key.name, i), fmt.Sprintf(format, args...)})
}

func (j *judge) endpoints(s setting) {
	list, _ := s.value.([]string)
	file := j.settings.get("discoveryFile")
	switch {
	case len(list) == 0 && file.value == "":
		j.fault(s, "is required: at least one API server, as host:port (or a kubeconfig, as discoveryFile)")
	case len(list) > 0 && file.value != "":
		// As kubeadm: two answers to one question, and only one would count.
		j.fault(s, "excludes discoveryFile (%s), which names the server: remove one of the two; key server sends the node elsewhere", file.at)
	}
	seen := map[string]int{}
	for i, text := range list {
		e, err := discovery.ParseEndpoint(text)
		if err != nil {
			j.element(s, i, "%s", ruleOf(err, text))
			continue
		}
		if first, twice := seen[e.String()]; twice {
			j.element(s, i, "is the same as element %d", first)
			continue
		}
		seen[e.String()] = i
		j.cfg.Endpoints = append(j.cfg.Endpoints, e)
	}
}

func (j *judge) tokenFile(s setting) {
	text, _ := s.value.(string)
	if text == "" {
		j.fault(s, "must be a path")
		return
	}
	if j.settings.flag("removeTokenAfterJoin") {
		j.cfg.RemoveToken = text
	}
	if s.at.from == fromDefault {
		return // ours; what is wrong with the file is told when it is read
	}
	j.path(s)
}

func (j *judge) token(s setting) {
	text, _ := s.value.(string)
	if text == "" {
		return
	}
	token, err := j.app.parserFor(j.settings)(text)
	if err != nil {
		rule := strings.TrimPrefix(ruleOf(err, text), "the bootstrap token ")
		j.fault(s, "%s", strings.TrimPrefix(rule, "the token "))
		return
	}
	if file := j.settings.get("tokenFile"); file.at.from != fromDefault {
		j.fault(s, "excludes tokenFile (%s): one token source is enough, remove one of the two", file.at)
	}
	if weak := token.Weak(); weak != "" {
		j.warnings = append(j.warnings, "token: "+weak)
	}
	j.inline = token
}

// tokens lists the token sources in the order in which they are asked.
func (j *judge) tokens() {
	sources := []agent.TokenSource{agent.TokenFile(j.settings.text("tokenFile"))}
	if dir := j.app.getenv("CREDENTIALS_DIRECTORY"); filepath.IsAbs(dir) {
		sources = append(sources, agent.TokenCredentials(dir)...)
	}
	if !j.inline.IsZero() {
		sources = append(sources, agent.TokenInline(j.inline))
	}
	if file := j.cfg.Discovery; file != nil {
		for i := range sources {
			sources[i] = agent.AnyBearer(sources[i])
		}
		sources = append(sources, file.Token())
	}
	j.cfg.Tokens = sources
}

func (j *judge) pins(s setting) {
	list, _ := s.value.([]string)
	good := true
	for i, text := range list {
		if _, err := discovery.ParsePins([]string{text}); err != nil {
			j.element(s, i, "%s", ruleOf(err, text))
			good = false
		}
	}
	if good {
		j.cfg.Pins, _ = discovery.ParsePins(list)
	}
}

func (j *judge) unsafe(s setting) {
	switch {
	case s.value != true:
	case len(j.settings.list("caCertHashes")) > 0:
		j.fault(s, "contradicts caCertHashes: remove one of the two")
	case j.settings.text("discoveryFile") != "":
		j.fault(s, "means nothing with discoveryFile, whose CA is always verified: remove it")
	}
}

func (j *judge) server(s setting) {
	text, _ := s.value.(string)
	if text == "" {
		return
	}
	server, err := discovery.ParseServer(text)
	if err != nil {
		j.fault(s, "%s", ruleOf(err, text))
		return
	}
	j.cfg.Server = server
}

func (j *judge) proxy(s setting) {
	text, _ := s.value.(string)
	if text == "" {
		return
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		j.fault(s, "is no URL")
		return
	case u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "socks5":
		j.fault(s, "must begin with http://, https:// or socks5://")
		return
	case u.Hostname() == "":
		j.fault(s, "has no host")
		return
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
		j.fault(s, "has a path, a query or a fragment; a proxy is host and port")
		return
	}
	noProxy := j.settings.text("noProxy")
	proxy := httpproxy.Config{HTTPSProxy: text, HTTPProxy: text, NoProxy: noProxy}
	j.cfg.Proxy = proxy.ProxyFunc()
	j.cfg.ProxyEnvironment = kubelet.ProxyVariables(text, noProxy)
}

func (j *judge) noProxy(s setting) {
	text, _ := s.value.(string)
	if text == "" {
		return
	}
	if j.settings.text("proxyURL") == "" {
		j.fault(s, "means nothing without proxyURL")
	}
	if strings.ContainsAny(text, " \"'") {
		j.fault(s, "holds a blank or a quote: hosts and networks with commas between them, nothing else")
	}
}

func (j *judge) nodeName(s setting) {
	text, _ := s.value.(string)
	host := ""
	if text == "" {
		var err error
		if host, err = j.app.hostName(); err != nil {
			j.fault(s, "%s; set this key", err)
			return
		}
	}
	name, err := kubelet.NodeName(text, host)
	if err != nil {
		what := ruleOf(err, text)
		if text == "" {
			what += " (it is this machine's host name; set this key, or another host name)"
		}
		j.fault(s, "%s", what)
		return
	}
	j.cfg.NodeName = name
}

func (j *judge) nodeIP(s setting) {
	text, _ := s.value.(string)
	if text == "" {
		return
	}
	ip, err := kubelet.NodeIP(text)
	if err != nil {
		j.fault(s, "%s", ruleOf(err, text))
		return
	}
	j.cfg.NodeIP = ip
}

func (j *judge) nodeLabels(s setting) {
	list, _ := s.value.([]string)
	labels, err := kubelet.ParseLabels(list)
	if err == nil {
		j.cfg.NodeLabels = labels
		return
	}
	j.listFault(s, err, func(one string) error { _, err := kubelet.ParseLabels([]string{one}); return err })
}

func (j *judge) nodeTaints(s setting) {
	list, _ := s.value.([]string)
	taints, err := kubelet.ParseTaints(list)
	if err == nil {
		j.cfg.NodeTaints = taints
		return
	}
	j.listFault(s, err, func(one string) error { _, err := kubelet.ParseTaints([]string{one}); return err })
}

func (j *judge) extraArgs(s setting) {
	list, _ := s.value.([]string)
	for i, one := range list {
		if err := kubelet.CheckExtraArgs([]string{one}); err != nil {
			flag, _, _ := strings.Cut(one, "=")
			if !showable(strings.TrimLeft(flag, "-")) {
				flag = "it"
			}
			j.element(s, i, "%s %s", flag, ruleOf(err, one))
		}
	}
}

// listFault tells which elements of a list break a rule by asking about each
// alone; a rule about all of them together (given twice) is told as it is.
func (j *judge) listFault(s setting, all error, check func(string) error) {
	list, _ := s.value.([]string)
	before := len(j.problems)
	for i, one := range list {
		if err := check(one); err != nil {
			j.element(s, i, "%s", ruleOf(err, one))
		}
	}
	if len(j.problems) == before {
		j.fault(s, "%s", ruleOf(all, list...))
	}
}

func (j *judge) clusterDNS(s setting) {
	list, _ := s.value.([]string)
	for i, text := range list {
		if addr, err := netip.ParseAddr(text); err != nil || addr.Zone() != "" || addr.IsUnspecified() {
			j.element(s, i, "must be an IP address")
		}
	}
	j.cfg.ClusterDNS = list
}

var dnsName = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

func (j *judge) restartSplay(s setting) {
	text, _ := s.value.(string)
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 || d > 24*time.Hour {
		j.fault(s, "must be a duration from 0s to 24h, such as 30m")
		return
	}
	j.cfg.RestartSplay = d
}

func (j *judge) caRotation(s setting) {
	text, _ := s.value.(string)
	if text == "pinned" && len(j.settings.list("caCertHashes")) == 0 && j.settings.text("discoveryFile") == "" {
		j.fault(s, "pinned needs the pins in caCertHashes, else no other CA could ever be taken")
	}
	j.cfg.CARotation = agent.CARotation(text)
}

// metricsAddress wants an address that was chosen: one that means "all of them"
// would show the numbers to networks that nobody thought of.
func (j *judge) metricsAddress(s setting) {
	text, _ := s.value.(string)
	if text == "" {
		return
	}
	at, err := netip.ParseAddrPort(text)
	addr := at.Addr().Unmap()
	wrong := ""
	switch {
	case err != nil && strings.HasPrefix(text, ":") && !strings.HasPrefix(text, "::"), err == nil && addr.IsUnspecified():
		wrong = "must name one address of this machine, not all of them: 127.0.0.1:9464, say"
	case err != nil:
		wrong = "must be an IP address and a port, as in 127.0.0.1:9464 or [::1]:9464"
	case addr.Zone() != "":
		wrong = "must be an address without a zone (%)"
	case addr.IsMulticast() || addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		wrong = "must be an address of this machine, not one of a group"
	case at.Port() < 1024:
		wrong = "must have a port from 1024 to 65535: the agent has no capability to take a lower one"
	case at.Port() == 10248 || at.Port() == 10250:
		wrong = "must not have a port of the kubelet's (10248, 10250)"
	}
	if wrong != "" {
		j.fault(s, "%s", wrong)
		return
	}
	j.cfg.MetricsAddress = netip.AddrPortFrom(addr, at.Port())
}

func (j *judge) clusterDomain(s setting) {
	text, _ := s.value.(string)
	if len(text) > 253 || !dnsName.MatchString(text) {
		j.fault(s, "must be a DNS name in lower case")
	}
	j.cfg.ClusterDomain = text
}

func (j *judge) runtimeEndpoint(s setting) {
	text, _ := s.value.(string)
	if text == "" {
		return
	}
	path, ok := strings.CutPrefix(text, "unix://")
	if _, err := kubelet.ParseRuntimeEndpoint(text); err != nil || !ok {
		j.fault(s, "must be a Unix socket, as in unix:///run/containerd/containerd.sock")
		return
	}
	j.checkPath(s, path)
}

func (j *judge) path(s setting) {
	if text, _ := s.value.(string); text != "" {
		j.checkPath(s, text)
	}
}

func (j *judge) checkPath(s setting, path string) {
	if what := j.app.pathFault(path); what != "" {
		j.fault(s, "%s", what)
	}
}

// ruleOf returns the broken rule of a parser's error without the value: the
// innermost cause, with any copy of the value taken out. The value may be a
// secret in the wrong place.
func ruleOf(err error, values ...string) string {
	for {
		var next error
		switch e := err.(type) { //nolint:errorlint // this walks the chain itself
		case interface{ Unwrap() error }:
			next = e.Unwrap()
		case interface{ Unwrap() []error }:
			if all := e.Unwrap(); len(all) > 0 {
				next = all[0]
			}
		}
		if next == nil {
			break
		}
		err = next
	}
	text := err.Error()
	for _, v := range values {
		if len(v) < 3 {
			continue
		}
		text = strings.ReplaceAll(text, fault.Quote(v), "(not shown)")
		text = strings.ReplaceAll(text, v, "(not shown)")
	}
	return strings.ReplaceAll(entryPrefix.ReplaceAllString(text, ""), "\n", "; ")
}

// entryPrefix is the beginning of a message that repeats key and value; we have
// said the key, and the value is not shown.
var entryPrefix = regexp.MustCompile(`^(nodeName|nodeIP|host name( \([^)]*\))?|nodeLabels\[\d+\]|nodeTaints\[\d+\]|kubelet\.extraArgs\[\d+\])` +
	` ("([^"\\]|\\.)*"|\(not shown\)):? `)
