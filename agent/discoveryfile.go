package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"syscall"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
	"github.com/bootstrap-agent/bootstrap-agent/discovery"
	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
)

// DiscoveryFile is a kubeconfig on this machine that names the cluster. It is
// read anew whenever it is needed, so that a newer one is used as soon as it is
// there.
type DiscoveryFile struct {
	Path string
	// PathFault says why nothing may be read from a path (who else may write
	// there, say), or ""; nil: nothing is wrong with any.
	PathFault func(path string) string
}

// Read returns what the file says. fs.ErrNotExist in the chain: it is not there
// (yet), or empty. A file with a secret in it must be its owner's alone.
func (d *DiscoveryFile) Read() (*discovery.File, error) {
	data, st, err := d.open(d.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR):
		return nil, fault.New(fault.ConfigInvalid, "there is no discovery file %s (or it is empty): %w", d.Path, fs.ErrNotExist).
			WithHint("Put the kubeconfig with server and CA there (key discoveryFile); it is taken in as soon as it is.")
	case err != nil:
		return nil, fault.New(fault.ConfigInvalid, "cannot read discovery file %s: %w", d.Path, err)
	}
	file, err := discovery.ParseFile(data, filepath.Dir(d.Path), func(path string) ([]byte, error) {
		data, _, err := d.open(path)
		return data, err
	})
	if err != nil {
		return nil, fault.New(fault.ConfigInvalid, "discovery file %s: %w", d.Path, err).WithHint("%s", fault.HintOf(err))
	}
	switch {
	case !file.HoldsSecret():
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return nil, fault.New(fault.ConfigInvalid, "discovery file %s holds a token and belongs to user %d, not to root", d.Path, st.Uid).
			WithHint("chown root: %s; a token that others may have read is better replaced", d.Path)
	case st.Mode&0o077 != 0:
		return nil, fault.New(fault.ConfigInvalid, "discovery file %s holds a token and may be read by others (mode %04o)", d.Path, st.Mode&0o7777).
			WithHint("chmod 0600 %s; a token that others may have read is better replaced", d.Path)
	}
	return file, nil
}

// open reads a file whole. A link is followed, and what it leads to is judged.
func (d *DiscoveryFile) open(path string) ([]byte, *syscall.Stat_t, error) {
	judge := d.PathFault
	if judge == nil {
		judge = func(string) string { return "" }
	}
	if what := judge(path); what != "" {
		return nil, nil, fmt.Errorf("%s: %s", path, what)
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, nil, err
	}
	if what := judge(real); what != "" {
		return nil, nil, fmt.Errorf("%s: %s", real, what)
	}
	data, err := atomicfile.Read(real, discovery.MaxFile)
	if err != nil {
		return nil, nil, err
	}
	var st syscall.Stat_t
	if err := syscall.Lstat(real, &st); err != nil {
		return nil, nil, &fs.PathError{Op: "lstat", Path: real, Err: err}
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, nil, &fs.PathError{Op: "read", Path: path, Err: fs.ErrNotExist}
	}
	return data, &st, nil
}

// Token is the token of the file's user as a source. It is asked after all
// others: who sets a token of his own means that one.
func (d *DiscoveryFile) Token() TokenSource { return fileUser{d} }

type fileUser struct{ file *DiscoveryFile }

func (u fileUser) Name() string { return "user of discovery file " + u.file.Path }

func (u fileUser) Read() (discovery.Token, error) {
	file, err := u.file.Read()
	if err != nil {
		return discovery.Token{}, err
	}
	if file.Token().IsZero() {
		return discovery.Token{}, fmt.Errorf("discovery file %s has no token: %w", u.file.Path, fs.ErrNotExist)
	}
	return file.Token(), nil
}

// fileDigest returns the ground that the discovery file is for a trust record;
// "" without one. A file that has become bad stays the ground it was.
func (a *Agent) fileDigest() string {
	if a.cfg.Discovery == nil {
		return ""
	}
	if file, err := a.cfg.Discovery.Read(); err == nil {
		a.memory.file = file
	}
	if a.memory.file == nil {
		return "unreadable"
	}
	return a.memory.file.Digest()
}

// fileOffer is what the discovery file says now; false without one that can be
// read.
func (a *Agent) fileOffer() (discovery.Offer, bool) {
	if a.cfg.Discovery == nil {
		return discovery.Offer{}, false
	}
	file, err := a.cfg.Discovery.Read()
	if err != nil {
		a.log.WithError(err).Debug("the discovery file does not tell the cluster's CAs")
		return discovery.Offer{}, false
	}
	return discovery.Offer{Server: file.Server(), Bundle: file.Bundle()}, true
}

// fileServer is the server that the discovery file names now; "" if it cannot be
// read.
func (a *Agent) fileServer() string {
	file, err := a.cfg.Discovery.Read()
	if err != nil {
		return ""
	}
	return file.Server()
}

// Leftover is a kubeconfig with a token that a joined machine has no use for.
type Leftover struct {
	Path   string
	Remedy string // the next step for a person
}

// tokenLine is a token on a line of its own, which sed can take out.
var tokenLine = regexp.MustCompile(`(?m)^ *token:`)

// Leftovers looks for kubeconfigs that still hold a bootstrap token. It is for
// machines that have joined. What cannot be read is not told of.
func Leftovers(paths record.Paths, file *DiscoveryFile) []Leftover {
	var found []Leftover
	own := ""
	if file != nil {
		own = filepath.Clean(file.Path)
		if data := tokenIn(own); data != nil {
			take := "take the user's token out of " + own
			if tokenLine.Match(data) {
				take = "sed -i '/^ *token:/d' " + own
			}
			found = append(found, Leftover{own, take + " (server and CA are still read; to join again, `bootstrap-agent token set`)"})
		}
	}
	for _, path := range kubelet.BootstrapKubeconfigs(paths.Etc, kubelet.Layout{Dir: paths.Kubelet}) {
		if path != own && tokenIn(path) != nil {
			found = append(found, Leftover{path, "rm " + path + " (only a kubelet that bootstraps by itself reads it)"})
		}
	}
	return found
}

// tokenIn returns the content of a kubeconfig that has a token, else nil.
func tokenIn(path string) []byte {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil
	}
	data, err := atomicfile.Read(real, discovery.MaxFile)
	if err != nil || !discovery.HoldsToken(data) {
		return nil
	}
	return data
}
