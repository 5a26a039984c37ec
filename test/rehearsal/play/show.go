package play

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/cmd/bootstrap-agent/view"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
	"github.com/bootstrap-agent/bootstrap-agent/test/demo/screen"
)

// approval is how long the double of the cluster thinks, so that there is
// something to see.
const approval = 700 * time.Millisecond

// Show rehearses a join and explains it.
func Show(ctx context.Context, s *screen.Screen) error {
	s.Title("A REHEARSAL: no cluster, no systemd, no root")
	s.Print(`  real        the agent's own code: discovery over TLS with the token's signature and the
              CA pin, key and certificate request, files, unit, the loop, this view
  stood in    the API server (in this process; it approves after ` + view.Seconds(approval.Seconds()) + `), systemd, the
              container runtime, the kubelet (nothing is executed) and its health
`)
	live, stop := s.Live()
	result, err := Join(ctx, Options{
		Approval: approval,
		Scene: func(api *testapi.Server, folder string) {
			id, _, _ := strings.Cut(api.Token(), ".")
			s.Print("  server      " + api.URL() + "\n  token       " + id + ".<redacted>\n  pin         " + api.Pin() + "\n  folder      " + folder + "\n\n")
		},
		OnStatus: func(st agent.Status) { live.Update(st, time.Now()) },
	})
	stop(err == nil)
	if err != nil {
		return err
	}
	s.Print("\n" + view.Timeline(result.Status.Timeline, s.Style()))
	s.Printf("\n%s is a node: %d requests over %d TLS handshakes, systemd was asked to %s.",
		NodeName, len(result.Requests), result.Handshakes, strings.Join(result.Calls, ", "))
	s.Print("\nWritten into the folder, which is gone now:\n\n")
	for _, f := range result.Files {
		s.Print(f.String() + "\n")
	}
	return nil
}

// File is one file that the agent wrote.
type File struct {
	Path   string // as it would be on a machine
	Mode   fs.FileMode
	Size   int64
	Target string // of a link
}

// String is one line of a listing.
func (f File) String() string {
	line := fmt.Sprintf("  %s %6d  %s", f.Mode, f.Size, f.Path)
	if f.Target != "" {
		line += " -> " + f.Target
	}
	if what := meaning(f.Path); what != "" && f.Target == "" {
		line = fmt.Sprintf("%-84s  %s", line, what)
	}
	return line
}

func meaning(path string) string {
	switch name := filepath.Base(path); {
	case name == "kubeconfig":
		return "server, and where the pair is"
	case name == "config.yaml":
		return "the cluster's kubelet-config, completed"
	case name == "ca.crt":
		return "the CA that the pin allowed"
	case strings.HasPrefix(name, "kubelet-client-"):
		return "certificate and key"
	case name == "trust.json":
		return "whom the agent trusts, and why"
	case name == "manifest.json":
		return "what it wrote, with hashes"
	case name == "status.json":
		return "what `status` shows"
	case name == "kubelet.service":
		return "complete by itself"
	case strings.HasSuffix(path, ".service.d/90-bootstrap-agent.conf"):
		return "wins over a vendor's drop-in"
	case name == "lock":
		return "one agent at a time"
	}
	return ""
}

// list names the files below folder, but for the kubelet that was put there.
func list(folder string) ([]File, error) {
	var files []File
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		f := File{Path: strings.TrimPrefix(path, folder), Mode: info.Mode(), Size: info.Size()}
		if f.Path == "/usr/bin/kubelet" {
			return nil
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			if f.Target, err = os.Readlink(path); err != nil {
				return err
			}
			f.Target = filepath.Base(f.Target)
		}
		files = append(files, f)
		return nil
	})
	return files, err
}
