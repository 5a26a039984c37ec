package adopt

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

// Look finds out what runs here, whether it can be taken over, and as what. It
// changes nothing, and asks the API server for one object: the Node.
func (a *Adopt) Look(ctx context.Context) (*Found, error) {
	manifest, err := record.ReadManifest(a.Paths)
	if err != nil {
		return nil, err
	}
	begun, err := record.ReadAdoption(a.Paths)
	if err != nil {
		return nil, err
	}
	f := &Found{Done: manifest.Adopted != nil && !manifest.Started.IsZero()}
	if begun != nil && f.Done {
		_, err := os.Lstat(begun.ConfigFile) // written last, see Do
		f.Done = err == nil
	}
	if _, ours := manifest.Files[a.files().CurrentPair()]; ours && manifest.Adopted == nil {
		return nil, refused("this node was joined by the agent itself: there is nothing to take over")
	}
	if f.Existing, err = a.Units.Existing(ctx, a.Paths.Units); err != nil {
		return nil, err
	}
	if err := a.unit(f, begun); err != nil {
		return nil, err
	}
	if err := a.identity(f); err != nil {
		return nil, err
	}
	if f.Done {
		return f, nil
	}
	if err := a.machine(f); err != nil {
		return nil, err
	}
	return f, a.verify(ctx, f)
}

// unit reads the kubelet's command line: as it is, or, where an earlier run was cut
// off with our drop-in in place, as it was.
func (a *Adopt) unit(f *Found, begun *record.Adoption) error {
	e := f.Existing
	unit := e.Unit
	switch {
	case begun != nil:
		unit.ExecStart = [][]string{begun.ExecStart}
	case e.Owner == systemd.OwnerNone:
		return refused("there is no %s: only a kubelet that systemd runs can be taken over", systemd.KubeletUnit)
	case e.Owner == systemd.OwnerOurs:
		return refused("%s was written by the agent: there is nothing to take over", e.Path)
	case unit.UnitFileState == "transient":
		return refused("%s is a transient unit, made by systemd-run: it is gone when it stops", systemd.KubeletUnit)
	case !unit.Running():
		return refused("%s does not run (%s): a kubelet is taken over while it works", systemd.KubeletUnit, unit.ActiveState).
			WithHint("Start it: `systemctl start %s`. If it does not start, see `journalctl -u %s`.", systemd.KubeletUnit, systemd.KubeletUnit)
	}
	if besides := unit.Besides(); len(besides) > 0 || unit.Kubelet() == "" {
		return refused("%s runs something else than a kubelet by itself: %s", e.Path, fault.Quote(strings.Join(besides, "; ")))
	}
	f.Binary, f.ExecStart, f.Argv = unit.Kubelet(), unit.ExecStart[0], unit.Argv(a.Read)
	flag := func(name string) string { return lastFlag(f.Argv, name) }
	f.Kubeconfig = flag("kubeconfig")
	f.Adopted.Config = flag("config")
	switch {
	case f.Kubeconfig == "":
		return refused("the kubelet has no --kubeconfig: it belongs to no cluster")
	case f.Adopted.Config == "":
		return refused("the kubelet has no --config: what it does without one is not what it does with an empty one").
			WithHint("Put its settings into a file (kind: KubeletConfiguration), name it with --config, and see that it runs so.")
	case !filepath.IsAbs(f.Kubeconfig) || !filepath.IsAbs(f.Adopted.Config):
		return refused("--kubeconfig or --config of the kubelet is no absolute path")
	}
	if root := flag("root-dir"); root != "" && filepath.Clean(root) != filepath.Clean(a.Paths.Kubelet) {
		return refused("the kubelet has --root-dir=%s; the agent's folder for it is %s", fault.Quote(root), a.Paths.Kubelet)
	}
	return a.carryOver(f, unit)
}

// dropped are flags that end with the takeover: ours say it, or nobody needs it.
var dropped = []string{"bootstrap-kubeconfig", "kubeconfig", "config", "cert-dir", "rotate-certificates", "hostname-override", "root-dir"}

// carryOver sorts the words of the command line: variables of the unit stay as they
// are (kubeadm writes the value of its own at each upgrade, and with the kubelet's
// version), unless they say what the agent decides; flags become keys of the
// agent's configuration.
func (a *Adopt) carryOver(f *Found, unit systemd.Unit) error {
	var words []string
	for _, word := range unit.ExecStart[0][1:] {
		one := unit
		one.ExecStart = [][]string{{unit.ExecStart[0][0], word}}
		values := one.Argv(a.Read)[1:]
		name, variable := strings.CutPrefix(word, "$")
		decided := slices.ContainsFunc(values, func(v string) bool { return slices.Contains(dropped, flagName(v)) })
		switch {
		case variable && name == systemd.ExtraArgs: // ours has it, last of all
			if decided {
				return refused("$%s has flags that the agent decides (%s): move them into the unit", systemd.ExtraArgs, strings.Join(dropped, ", "))
			}
		case variable && !strings.HasPrefix(name, "{") && (!decided || onlyNames(values)):
			f.Adopted.Variables = append(f.Adopted.Variables, name)
		default:
			words = append(words, values...)
		}
	}
	for i := 0; i < len(words); i++ {
		word := words[i]
		name := flagName(word)
		if name == "" {
			return refused("the kubelet's command line has a word that is no flag: %s", fault.Quote(word))
		}
		_, value, given := strings.Cut(word, "=")
		if !given && i+1 < len(words) && flagName(words[i+1]) == "" {
			i++
			value, given = words[i], true
		}
		a.keep(f, name, value, given)
	}
	return nil
}

// onlyNames: of what the agent decides these words say the node's name alone, which
// is that of the certificate, or identity refuses: said twice it does no harm.
// kubeadm puts it into its variable where it is not the host's.
func onlyNames(words []string) bool {
	return !slices.ContainsFunc(words, func(word string) bool {
		name := flagName(word)
		return name != "hostname-override" && slices.Contains(dropped, name)
	})
}

func (a *Adopt) keep(f *Found, name, value string, given bool) {
	v := &f.Values
	switch {
	case slices.Contains(dropped, name):
	case name == "node-ip":
		v.NodeIP = value
	case name == "config-dir":
		v.ConfigDir = value
	case name == "container-runtime-endpoint":
		v.RuntimeEndpoint = value
	case name == "node-labels":
		v.Labels = append(v.Labels, list(value)...)
	case name == "register-with-taints":
		v.Taints = append(v.Taints, list(value)...)
	case given:
		v.ExtraArgs = append(v.ExtraArgs, "--"+name+"="+value)
	default:
		v.ExtraArgs = append(v.ExtraArgs, "--"+name)
	}
}

func list(value string) []string {
	return slices.DeleteFunc(strings.Split(value, ","), func(s string) bool { return s == "" })
}

// identity reads kubeconfig, CA and pair.
func (a *Adopt) identity(f *Found) error {
	data, err := atomicfile.Read(resolve(f.Kubeconfig), record.MaxFile)
	if err != nil {
		return refused("the kubelet's kubeconfig cannot be read: %w", err)
	}
	c, err := kubelet.ParseCredentials(data, filepath.Dir(f.Kubeconfig))
	if err != nil {
		return refused("the kubeconfig %s %w", f.Kubeconfig, err)
	}
	f.Server = c.Server
	for _, part := range []struct {
		into *[]byte
		path string
	}{{&c.CA, c.CAFile}, {&c.Cert, c.CertFile}, {&c.Key, c.KeyFile}} {
		if part.path == "" {
			continue
		}
		if *part.into, err = atomicfile.Read(resolve(part.path), record.MaxFile); err != nil {
			return refused("what the kubeconfig %s names cannot be read: %w", f.Kubeconfig, err)
		}
	}
	if f.CA, f.Pins, err = bundle(c.CA); err != nil {
		return refused("the CA of %s %w", f.Kubeconfig, err)
	}
	named := append(append(slices.Clone(c.Cert), '\n'), c.Key...)
	f.Pair = named
	// A kubelet that renews its certificate uses the one in its own folder.
	certDir := lastFlag(f.Argv, "cert-dir")
	if certDir == "" {
		certDir = filepath.Join(a.Paths.Kubelet, "pki")
	}
	name, err := nodeOf(named)
	if err != nil {
		return refused("the pair of %s %w", f.Kubeconfig, err)
	}
	f.NodeName = name
	own := filepath.Join(certDir, filepath.Base(a.files().CurrentPair()))
	if current, err := atomicfile.Read(resolve(own), record.MaxFile); err == nil && kubelet.JudgePair(current, name, a.Now()).Status == kubelet.PairUsable {
		f.Pair = current
	}
	state := kubelet.JudgePair(f.Pair, name, a.Now())
	f.Serial, f.NotAfter = state.Serial, state.NotAfter
	if state.Status != kubelet.PairUsable {
		return refused("the node's pair cannot be used: it %s", state.Detail).
			WithHint("Join this machine anew: `kubeadm reset`, or move the files of the old identity away; then `bootstrap-agent configure -`.")
	}
	if current, err := a.files().Observe(name); err == nil {
		f.InPlace = current.Pair.Serial == f.Serial && current.Pair.Link == kubelet.LinkGood && current.Pair.Status == kubelet.PairUsable
	}
	if override := lastFlag(f.Argv, "hostname-override"); override != "" && !strings.EqualFold(override, name) {
		return refused("the kubelet is to be node %s (--hostname-override) and has the certificate of %s", fault.Quote(override), fault.Quote(name))
	}
	return nil
}

// nodeOf is the name in a pair's certificate.
func nodeOf(pair []byte) (string, error) {
	state := kubelet.JudgePair(pair, "", time.Time{})
	if state.Leaf == nil {
		return "", errors.New("cannot be used: it " + state.Detail)
	}
	name, ok := strings.CutPrefix(state.CN, kubelet.NodeUser(""))
	if !ok || name == "" {
		return "", fmt.Errorf("is that of %s, which is no node", fault.Quote(state.CN))
	}
	return name, nil
}

// bundle reads the CAs strictly and returns them as PEM, with their pins.
func bundle(data []byte) (ca []byte, pins []string, err error) {
	for rest := data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if block.Type != "CERTIFICATE" || err != nil {
			return nil, nil, errors.New("holds something that is no certificate")
		}
		sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
		if pin := "sha256:" + hex.EncodeToString(sum[:]); !slices.Contains(pins, pin) {
			pins = append(pins, pin)
		}
		ca = append(ca, pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})...)
	}
	if len(pins) == 0 {
		return nil, nil, errors.New("holds no certificate")
	}
	return ca, pins, nil
}

// machine looks at what else is here: a control plane, and files of others where
// the agent's would stand.
func (a *Adopt) machine(f *Found) error {
	manifests := filepath.Join(a.Paths.Etc, "kubernetes/manifests")
	known := func(string) bool { return true }
	found, err := kubelet.FindForeign(kubelet.Search{Layout: a.files().Layout, ManifestDirs: []string{manifests}, Ours: known})
	if err != nil {
		return err
	}
	if len(found) > 0 {
		return refused("%s holds %s, which kubeadm sees to", found[0].Path, found[0].What)
	}
	kubeadm := filepath.Join(a.Paths.Etc, "kubernetes/kubelet.conf")
	for _, path := range []string{f.Kubeconfig, kubeadm} {
		if _, err := os.Lstat(path); err == nil && path != a.files().Kubeconfig() && !slices.Contains(f.Adopted.Theirs, path) {
			f.Adopted.Theirs = append(f.Adopted.Theirs, path)
		}
	}
	if f.Kubeconfig != a.files().Kubeconfig() {
		if _, err := os.Lstat(a.files().Kubeconfig()); err == nil && !a.begun() {
			return refused("%s is there and is not the kubeconfig that the kubelet uses (%s)", a.files().Kubeconfig(), f.Kubeconfig).WithHint("Move it away.")
		}
	}
	// The agent's ca.crt may be another's already, and be whom the kubelet lets in.
	old, err := atomicfile.Read(a.files().CACert(), record.MaxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return refused("%s cannot be read: %w", a.files().CACert(), err)
	}
	same, _, err := bundle(old)
	if err != nil || !bytes.Equal(same, f.CA) {
		return refused("%s holds other CAs than the kubeconfig %s", a.files().CACert(), f.Kubeconfig).
			WithHint("The agent keeps the cluster's CA there. Move that file to another name, and name it so in whatever reads it.")
	}
	f.CA = old
	return nil
}

func (a *Adopt) begun() bool {
	begun, err := record.ReadAdoption(a.Paths)
	return err == nil && begun != nil
}

// verify asks the server for the Node, with the pair.
func (a *Adopt) verify(ctx context.Context, f *Found) error {
	node, err := a.Ask(ctx, f.Server, f.CA, f.Pair, f.NodeName)
	if err != nil {
		if reason := fault.ReasonOf(err); reason != "" {
			return fmt.Errorf("cannot take over node %s: %w", f.NodeName, err)
		}
		return refused("the API server %s does not answer this pair with its Node: %w", f.Server, err)
	}
	if ours := a.Machine.BootID; node.BootID != "" && ours != "" && node.BootID != ours {
		return refused("the Node %s is another machine's at this moment (its boot ID is %s, ours %s)", f.NodeName, fault.Quote(node.BootID), ours)
	}
	f.NodeUID = node.UID
	return nil
}

// resolve follows links: an identity counts wherever it lies.
func resolve(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	return path
}

// lastFlag is the value of a flag as the kubelet takes it: the last one counts.
func lastFlag(argv []string, name string) (value string) {
	for i, word := range argv {
		if flagName(word) != name {
			continue
		}
		if _, v, ok := strings.Cut(word, "="); ok {
			value = v
		} else if i+1 < len(argv) {
			value = argv[i+1]
		}
	}
	return value
}

// flagName is the name of a flag as the kubelet knows it; "" for no flag.
func flagName(word string) string {
	name := strings.TrimLeft(word, "-")
	if name == word || name == "" {
		return ""
	}
	name, _, _ = strings.Cut(name, "=")
	return strings.ReplaceAll(name, "_", "-")
}
