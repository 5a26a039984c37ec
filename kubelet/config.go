package kubelet

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

const (
	configVersion = "kubelet.config.k8s.io/v1beta1"
	configKind    = "KubeletConfiguration"
)

// configHeader begins every configuration that RenderConfig renders.
const configHeader = "# Written by bootstrap-agent from: "

// IsRendered says whether this is a configuration that RenderConfig rendered,
// whatever was changed in it since; another one is somebody else's.
func IsRendered(config []byte) bool { return bytes.HasPrefix(config, []byte(configHeader)) }

// Source says where the kubelet's configuration comes from.
type Source string

// The sources, in the order in which they are tried.
const (
	Operator Source = "kubelet.configFile"
	Cluster  Source = "ConfigMap kube-system/kubelet-config"
	BuiltIn  Source = "built-in defaults"
)

// Serving says who signs the certificate with which the kubelet serves.
const (
	ServingSelfSigned = "self-signed"
	ServingCluster    = "cluster"
)

// RenderInput is all that decides the kubelet's configuration.
type RenderInput struct {
	Source Source
	Base   []byte // the document; not read for BuiltIn
	Dir    string // where the result will lie: the kubelet reads relative paths from there

	ClientCAFile       string // kubelet.clientCAFile, else the cluster's CA as written
	RuntimeEndpoint    string // configured or found; "" if neither
	ClusterDNS         []string
	ClusterDomain      string
	RegisterWithTaints []Taint
	ServingCertificate string // "", ServingSelfSigned or ServingCluster
	CgroupDriver       string // of the runtime, where something tells it; see CgroupDriver
	CgroupV2           bool
	ResolvConf         string // see Host.ResolvConf; "" leaves the kubelet's own default

	FileExists func(string) bool // nil: look on this machine
}

// RenderConfig renders the kubelet's configuration: the same input gives the
// same bytes, every field of the source that is not named in [BuiltInDefaults]
// passes through untouched, and rendering a result again changes nothing.
//
// Refused, with field and source, is what the kubelet would die of: a document
// of another kind, and files that are named but not there. Paths of the
// cluster's document that do not exist here, and that we can replace, count as
// not given: they were written for the machine it was made on.
func RenderConfig(in RenderInput) ([]byte, []Note, error) {
	if in.FileExists == nil {
		in.FileExists = func(path string) bool { _, err := os.Stat(path); return err == nil }
	}
	switch in.ServingCertificate {
	case "", ServingSelfSigned, ServingCluster:
	default:
		return nil, nil, fault.New(fault.ConfigInvalid, "kubelet.servingCertificate %s: must be %s or %s",
			fault.Quote(in.ServingCertificate), ServingSelfSigned, ServingCluster)
	}
	doc, err := in.document()
	if err != nil {
		return nil, nil, in.fault([]error{err})
	}
	r := renderer{in: in, doc: doc}
	r.namedFiles()
	r.onTop()
	r.remarks()
	if len(r.faults) > 0 {
		return nil, nil, in.fault(r.faults)
	}
	body, err := yaml.Marshal(map[string]any(doc))
	if err != nil {
		return nil, nil, in.fault([]error{fmt.Errorf("cannot be written as YAML: %s", fault.Quote(err.Error()))})
	}
	header := configHeader + string(in.Source) + ".\n" +
		"# Changes here are reported as Drifted; local settings belong into kubelet.configDir.\n"
	return append([]byte(header), body...), r.notes, nil
}

func (in RenderInput) document() (document, error) {
	if in.Source == BuiltIn {
		return in.builtInDocument()
	}
	parsed, err := parseDocument(in.Base)
	if err != nil {
		return nil, err
	}
	if parsed["apiVersion"] != configVersion || parsed["kind"] != configKind {
		return nil, fmt.Errorf("must have apiVersion: %s and kind: %s", configVersion, configKind)
	}
	return parsed, nil
}

// fault names the source with every fault, and what to do there.
func (in RenderInput) fault(found []error) error {
	for i, err := range found {
		found[i] = fmt.Errorf("%s: %w", in.Source, err)
	}
	err := joined(found)
	if e, ok := fault.As(err); ok && in.Source == Cluster {
		return e.WithHint("Mend key `kubelet` of ConfigMap kubelet-config in namespace kube-system, or give this machine a `kubelet.configFile` of its own.")
	}
	return err
}

func (in RenderInput) cgroupDriver() string {
	if in.CgroupDriver != "" {
		return in.CgroupDriver
	}
	return DriverSystemd
}

type renderer struct {
	in     RenderInput
	doc    document
	notes  []Note
	faults []error
}

func (r *renderer) note(field, format string, args ...any) {
	r.notes = append(r.notes, Note{field, fmt.Sprintf(format, args...)})
}

// text returns a field that must be a string; "" for none.
func (r *renderer) text(field string) string {
	v, err := r.doc.get(field)
	if err != nil {
		r.faults = append(r.faults, err)
		return ""
	}
	s, ok := v.(string)
	if v != nil && !ok {
		r.faults = append(r.faults, fmt.Errorf("%s: must be a string", field))
	}
	return s
}

func (r *renderer) set(field string, value any) {
	if err := r.doc.set(field, value); err != nil {
		r.faults = append(r.faults, err)
	}
}

// exists resolves a path as the kubelet does, from the folder of its file.
func (r *renderer) exists(path string) bool {
	if !filepath.IsAbs(path) {
		path = filepath.Join(r.in.Dir, path)
	}
	return r.in.FileExists(path)
}

// replaceable are the paths we have something to put in place of: missing, they
// count as not given in the cluster's document.
func replaceable(field string) bool {
	return field == "authentication.x509.clientCAFile" || field == "resolvConf"
}

func (r *renderer) namedFiles() {
	for _, field := range []string{"authentication.x509.clientCAFile", "resolvConf", "tlsCertFile", "tlsPrivateKeyFile"} {
		path := r.text(field)
		if path == "" || r.exists(path) {
			continue
		}
		if r.in.Source == Cluster && replaceable(field) {
			r.note(field, "the cluster's %s does not exist on this machine and was left out", fault.Quote(path))
			r.doc.remove(field)
			continue
		}
		r.faults = append(r.faults, fmt.Errorf("%s: names %s, which does not exist on this machine", field, fault.Quote(path)))
	}
	if r.in.Source != Cluster {
		return
	}
	for _, field := range []string{"containerRuntimeEndpoint", "imageServiceEndpoint"} {
		socket, ok := strings.CutPrefix(r.text(field), "unix://")
		if !ok || r.exists(socket) || field == "containerRuntimeEndpoint" && r.in.RuntimeEndpoint == "" {
			continue
		}
		r.note(field, "the cluster's %s does not exist on this machine and was left out", fault.Quote(socket))
		r.doc.remove(field)
	}
}

func (r *renderer) onTop() {
	r.set("rotateCertificates", true)
	r.unlessGiven("authentication.x509.clientCAFile", r.in.ClientCAFile)
	r.unlessGiven("containerRuntimeEndpoint", r.in.RuntimeEndpoint)
	if v, _ := r.doc.get("resolvConf"); v == nil && r.in.ResolvConf != "" {
		r.set("resolvConf", r.in.ResolvConf) // an empty one is a value: no resolver at all
	}
	r.taints()
	if r.in.ServingCertificate != "" {
		r.set("serverTLSBootstrap", r.in.ServingCertificate == ServingCluster)
	}
}

func (r *renderer) unlessGiven(field, value string) {
	given := r.text(field)
	switch {
	case value == "":
	case given == "":
		r.set(field, value)
	case given != value:
		r.note(field, "%s says %s; that stays", r.in.Source, fault.Quote(given))
	}
}

func (r *renderer) taints() {
	if len(r.in.RegisterWithTaints) == 0 {
		return
	}
	list := make([]any, len(r.in.RegisterWithTaints))
	for i, t := range r.in.RegisterWithTaints {
		taint := map[string]any{"key": t.Key, "effect": t.Effect}
		if t.Value != "" {
			taint["value"] = t.Value
		}
		list[i] = taint
	}
	given, err := r.doc.get("registerWithTaints")
	have, isList := given.([]any)
	switch {
	case err != nil:
		r.faults = append(r.faults, err)
	case given == nil || isList && len(have) == 0:
		r.set("registerWithTaints", list)
	case !reflect.DeepEqual(given, any(list)):
		r.note("registerWithTaints", "%s has taints of its own; nodeTaints is not used", r.in.Source)
	}
}

func (r *renderer) remarks() {
	if v, _ := r.doc.get("clusterDNS"); v == nil {
		r.note("clusterDNS", "none is set: Pods will use the node's resolver and know no Services")
	} else if r.in.Source != BuiltIn && len(r.in.ClusterDNS) > 0 && !reflect.DeepEqual(v, any(anys(r.in.ClusterDNS))) {
		r.note("clusterDNS", "%s says otherwise than the agent's configuration; that stays", r.in.Source)
	}
	if v, _ := r.doc.get("failCgroupV1"); !r.in.CgroupV2 && v != false {
		r.note("failCgroupV1", "this machine runs cgroup v1: a kubelet from 1.35 refuses to start there unless its configuration says failCgroupV1: false; the agent does not decide that")
	}
	driver, _ := r.doc.get("cgroupDriver")
	if driver == nil {
		driver = DriverCgroupfs // the kubelet's own default
	}
	switch {
	case r.in.CgroupDriver != "" && driver != r.in.CgroupDriver:
		r.note("cgroupDriver", "%s says %s, but the container runtime is set to %s: unless the kubelet can ask the runtime itself, Pods will not stay up",
			r.in.Source, fault.Quote(fmt.Sprint(driver)), r.in.CgroupDriver)
	case driver == DriverCgroupfs && r.in.CgroupV2:
		r.note("cgroupDriver", "cgroupfs on a machine with cgroup v2; systemd is advised, for runtime (containerd: SystemdCgroup = true) and kubelet alike")
	}
}

// document is a configuration with fields addressed as in a.b.c.
type document map[string]any

func (d document) get(field string) (any, error) {
	at := map[string]any(d)
	parts := strings.Split(field, ".")
	for i, part := range parts[:len(parts)-1] {
		switch v := at[part].(type) {
		case nil:
			return nil, nil
		case map[string]any:
			at = v
		default:
			return nil, fmt.Errorf("%s: must be a mapping", strings.Join(parts[:i+1], "."))
		}
	}
	return at[parts[len(parts)-1]], nil
}

func (d document) set(field string, value any) error {
	at := map[string]any(d)
	parts := strings.Split(field, ".")
	for i, part := range parts[:len(parts)-1] {
		switch v := at[part].(type) {
		case nil:
			next := map[string]any{}
			at[part] = next
			at = next
		case map[string]any:
			at = v
		default:
			return fmt.Errorf("%s: must be a mapping", strings.Join(parts[:i+1], "."))
		}
	}
	at[parts[len(parts)-1]] = value
	return nil
}

func (d document) remove(field string) {
	parent, last := "", field
	if i := strings.LastIndex(field, "."); i >= 0 {
		parent, last = field[:i], field[i+1:]
	}
	at := map[string]any(d)
	if parent != "" {
		v, _ := d.get(parent)
		at, _ = v.(map[string]any)
	}
	delete(at, last)
}
