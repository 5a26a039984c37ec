package kubelet

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// notReady makes one fault of what every socket said: a sentence for each that
// is there, and the next step for the one that is nearest to being a runtime.
func (h Host) notReady(named Named, replies []reply) (Runtime, error) {
	var sentences []string
	var nearest *reply
	for i, r := range replies {
		if r.state() == absent && named.Endpoint == "" {
			continue
		}
		sentences = append(sentences, h.sentence(r))
		if nearest == nil || r.state() > nearest.state() {
			nearest = &replies[i]
		}
	}
	if nearest == nil {
		return h.noSocket(replies)
	}
	text, hint := strings.Join(sentences, "; "), h.remedy(*nearest)
	if docker := h.dockerSocket(); docker != "" && nearest.state() <= withoutCRI && (named.Endpoint == "" || isDocker(nearest.Socket())) {
		text += "; Docker runs here (" + docker + "), but a kubelet can use Docker only through cri-dockerd"
		hint += " Or, to use Docker: " + dockerRemedy
		if isDocker(nearest.Socket()) {
			hint = "To use Docker: " + dockerRemedy
		}
	}
	if named.Endpoint != "" {
		text = named.By + ": " + text
		if nearest.state() <= foreign {
			hint += " If the runtime has another socket, mend " + named.By + "."
		}
	}
	return nearest.Runtime, fault.New(fault.RuntimeNotReady, "%s", text).WithHint("%s", hint)
}

// noSocket is for a machine on which no runtime has made its socket.
func (h Host) noSocket(replies []reply) (Runtime, error) {
	var sockets, programs []string
	for _, r := range replies {
		sockets = append(sockets, r.Socket())
		if path := h.program(r.Runtime); path != "" {
			return r.Runtime, fault.New(fault.RuntimeNotReady, "%s is installed (%s) but does not run: there is no %s", r.Runtime, path, r.Socket()).
				WithHint("Start it: `systemctl enable --now %s`. See `journalctl -u %s` if it does not stay up.", r.service(), r.service())
		}
		programs = append(programs, r.Name)
	}
	if docker := h.dockerSocket(); docker != "" {
		return Runtime{}, fault.New(fault.RuntimeNotReady, "Docker runs here (%s), but a kubelet can use Docker only through cri-dockerd, which has no socket", docker).
			WithHint("%s", dockerRemedy+" Or install containerd.")
	}
	return Runtime{}, fault.New(fault.RuntimeNotReady, "no container runtime is installed: neither a socket (%s) nor a program (%s) of one is on this machine",
		strings.Join(sockets, ", "), strings.Join(programs, ", ")).
		WithHint("Install one, as in `apt-get install containerd`, and start it: `systemctl enable --now containerd`.")
}

const dockerRemedy = "install cri-dockerd and run `systemctl enable --now cri-docker.socket`."

// sentence says in one line what is the case on a socket.
func (h Host) sentence(r reply) string {
	socket := r.Socket()
	switch r.state() {
	case absent:
		if path := h.program(r.Runtime); path != "" {
			return fmt.Sprintf("%s is installed (%s) but does not run: there is no %s", r.Runtime, path, socket)
		}
		return "there is no " + socket
	case forbidden:
		return fmt.Sprintf("%s cannot be opened: %v", socket, r.err)
	case refused:
		return fmt.Sprintf("%s does not run: nobody listens on %s", r.Runtime, socket)
	case foreign:
		return fmt.Sprintf("what listens on %s is no container runtime for a kubelet: %v", socket, r.err)
	case incomplete:
		return fmt.Sprintf("what answers on %s does not say what it is (empty: %v); a kubelet refuses such a runtime", socket, r.err)
	case outdated:
		return fmt.Sprintf("%s on %s is too old (%v): it knows only CRI v1alpha2, a kubelet needs v1", r.Runtime, socket, r.err)
	case withoutCRI:
		if line, text := h.disabledCRI(r.Runtime); line > 0 {
			return fmt.Sprintf("containerd runs without its CRI plugin: line %d of %s disables it (%s)", line, containerdConfig, text)
		}
		if r.Name == containerd {
			return "containerd runs without its CRI plugin: it is disabled, or failed when containerd was started"
		}
		return "what answers on " + socket + " serves no CRI"
	case silent:
		return fmt.Sprintf("%s listens on %s but does not answer: %v", r.Runtime, socket, r.err)
	}
	return fmt.Sprintf("%s answers on %s, but is not ready: %v", r.Runtime, socket, r.err)
}

// remedy is the next step for what sentence says.
func (h Host) remedy(r reply) string {
	logs := ""
	if r.Unit != "" {
		logs = " See `journalctl -u " + r.service() + "`."
	}
	switch r.state() {
	case absent, refused:
		if r.Unit == "" {
			return "Start the container runtime that serves " + r.Socket() + "."
		}
		if r.state() == absent && h.program(r.Runtime) == "" {
			return fmt.Sprintf("Install %s and start it: `systemctl enable --now %s`.", r.Name, r.service())
		}
		return "Start it: `systemctl enable --now " + r.service() + "`." + logs
	case forbidden:
		return "See `ls -lL " + r.Socket() + "`: the agent runs as root, without capabilities, and opens what belongs to root."
	case foreign:
		return "See who listens there: `ss -xlp | grep " + r.Socket() + "`."
	case incomplete, outdated:
		if r.Name == containerd {
			return "Install containerd 1.6 or later, and `systemctl restart containerd`."
		}
		return "Install a newer one that serves CRI v1."
	case withoutCRI:
		if line, _ := h.disabledCRI(r.Runtime); line > 0 {
			return fmt.Sprintf("Take the CRI plugin out of that line of %s, then `systemctl restart containerd`.", containerdConfig)
		}
		if r.Name == containerd {
			return "If its config was mended since: `systemctl restart containerd`. Else `ctr plugins ls | grep cri` and `journalctl -u containerd` say why."
		}
		return "See who listens there: `ss -xlp | grep " + r.Socket() + "`."
	case silent:
		restart := ""
		if r.Unit != "" {
			restart = " If that stays so: `systemctl restart " + r.service() + "`."
		}
		return "It may be starting." + restart + logs
	}
	return "It may be starting." + logs
}

// service is the runtime's unit as a person types it.
func (r Runtime) service() string { return strings.TrimSuffix(r.Unit, ".service") }

// program returns where a runtime is installed, or "".
func (h Host) program(r Runtime) string {
	name := map[string]string{containerd: "containerd", crio: "crio", criDockerd: "cri-dockerd"}[r.Name]
	if name == "" {
		return ""
	}
	for _, dir := range []string{"/usr/bin", "/usr/local/bin", "/opt/bin"} {
		if info, err := os.Stat(h.path(filepath.Join(dir, name))); err == nil && info.Mode().IsRegular() {
			return filepath.Join(dir, name)
		}
	}
	return ""
}

// dockerSocket returns Docker's own socket, with which no kubelet can speak.
func (h Host) dockerSocket() string {
	const path = "/run/docker.sock"
	if _, err := os.Lstat(h.path(path)); err != nil {
		return ""
	}
	return path
}

func isDocker(socket string) bool { return filepath.Base(socket) == "docker.sock" }

const containerdConfig = "/etc/containerd/config.toml"

// disabledCRI finds the line of containerd's configuration that switches its
// CRI plugin off, as Docker's packages ship it; 0 for none. It shows what
// containerd was told now, which is not what it runs with if nobody restarted
// it since. No TOML parser: what it cannot read it does not find.
func (h Host) disabledCRI(r Runtime) (number int, text string) {
	if r.Name != containerd {
		return 0, ""
	}
	data, err := follow(h.path(containerdConfig))
	if err != nil {
		return 0, ""
	}
	inside := false
	for line := range strings.Lines(string(data)) {
		number++
		line, _, _ = strings.Cut(strings.TrimSpace(line), "#")
		line = strings.TrimSpace(line)
		values := line
		if !inside {
			if strings.HasPrefix(line, "[") {
				return 0, "" // only before the first table is it containerd's own
			}
			key, rest, ok := strings.Cut(line, "=")
			if !ok || strings.TrimSpace(key) != "disabled_plugins" {
				continue
			}
			values = strings.TrimSpace(rest)
		}
		for _, plugin := range []string{"cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"} {
			if strings.Contains(values, `"`+plugin+`"`) || strings.Contains(values, "'"+plugin+"'") {
				if control(line) || len(line) > maxName {
					line = fault.Quote(plugin)
				}
				return number, line
			}
		}
		inside = !strings.Contains(values, "]")
	}
	return 0, ""
}
