package house

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// room is one row of the plan of the house: a folder and the folders of ours that
// it may know. "in/..." means everything below in.
type room struct {
	folder string
	knows  []string // in what is shipped
	tests  []string // in its tests, besides
	reason string
}

var rooms = []room{
	{
		folder: "cmd/bootstrap-agent",
		knows:  []string{"cmd/bootstrap-agent/...", "agent", "agent/adopt", "agent/record", "agent/reset", "discovery", "csr", "kubelet", "kubelet/preflight", "systemd", "internal/apiclient", "internal/atomicfile", "internal/fault", "internal/testapi", "internal/testsystemd"},
		reason: "the door turns what people type into values, so it knows the types of every room; its rehearsal joins in-process doubles",
	},
	{
		folder: "cmd/bootstrap-agent/view",
		knows:  []string{"agent", "discovery", "kubelet/preflight", "internal/fault"},
		reason: "it turns what is known into text; it loads nothing, decides nothing and reaches no machine",
	},
	{
		folder: "cmd/bootstrap-agent/redact",
		reason: "it takes secrets out of text and has no secret of its own to tell; whoever knows one hands it in",
	},
	{
		folder: "agent/record",
		knows:  []string{"internal/atomicfile", "internal/fault"},
		reason: "it is what stays on disk between two runs; what follows from it the hall and the commands decide",
	},
	{
		folder: "agent/adopt",
		knows:  []string{"agent/record", "kubelet", "systemd", "internal/atomicfile", "internal/fault"},
		tests:  []string{"internal/testsystemd"},
		reason: "it leaves the records that the hall goes on with; a hall that could call it could take over a node that nobody gave it",
	},
	{
		folder: "agent/reset",
		knows:  []string{"agent/record", "kubelet", "systemd", "internal/atomicfile", "internal/fault"},
		tests:  []string{"internal/testsystemd"},
		reason: "it undoes what the hall has done, from the records alone; a hall that could call it could leave its cluster by itself",
	},
	{
		folder: "agent",
		knows:  []string{"agent/record", "discovery", "csr", "kubelet", "kubelet/preflight", "systemd", "internal/apiclient", "internal/atomicfile", "internal/diff", "internal/fault", "internal/metrics"},
		tests:  []string{"agent/adopt", "agent/reset", "internal/testapi", "internal/testsystemd"},
		reason: "the hall is the one place that knows the order of the steps; it carries the value from one room to the next",
	},
	{
		folder: "discovery",
		knows:  []string{"internal/fault"},
		tests:  []string{"internal/testapi"},
		reason: "whom to trust is decided from token, pins and bytes alone; it writes no file and meets no other room",
	},
	{
		folder: "csr",
		knows:  []string{"internal/atomicfile", "internal/fault"},
		tests:  []string{"internal/apiclient", "internal/testapi"},
		reason: "it takes the API as an interface, so that its waits can be tested without a network",
	},
	{
		folder: "kubelet",
		knows:  []string{"internal/atomicfile", "internal/fault"},
		reason: "it knows files, not where their contents come from, nor the unit that reads them",
	},
	{
		folder: "kubelet/preflight",
		knows:  []string{"kubelet", "internal/fault"},
		reason: "part of the kubelet's room, apart because it reads the whole machine where kubelet reads the kubelet's own files; nothing there depends on it",
	},
	{
		folder: "kubelet/compat",
		tests:  []string{"kubelet"},
		reason: "tests of kubelet against client-go's own code, apart because that links a lot",
	},
	{
		folder: "discovery/compat",
		tests:  []string{"discovery"},
		reason: "tests of discovery against client-go's own code, apart because that links a lot",
	},
	{
		folder: "systemd",
		knows:  []string{"internal/atomicfile", "internal/fault"},
		reason: "it knows units, not what a kubelet is",
	},
	{
		folder: "internal/fault",
		reason: "everybody knows the reasons, so the reasons know nobody",
	},
	{
		folder: "internal/atomicfile",
		knows:  []string{"internal/fault"},
		reason: "it writes bytes and cannot care whose they are",
	},
	{
		folder: "internal/apiclient",
		knows:  []string{"internal/fault"},
		tests:  []string{"internal/testapi"},
		reason: "one connection to one server that is trusted already; who is on the line is the hall's business",
	},
	{
		folder: "internal/diff",
		reason: "it compares two texts; what they are and what of them may be seen, its caller knows",
	},
	{
		folder: "internal/metrics",
		reason: "it writes a format and answers a request; what the numbers mean is the hall's business",
	},
	{
		folder: "internal/testapi",
		reason: "the server's side must not share code with the client's, or both would be wrong together",
	},
	{
		folder: "internal/testsystemd",
		knows:  []string{"systemd", "internal/atomicfile", "internal/fault"},
		reason: "a double of a room speaks that room's types; only tests and the rehearsal see it",
	},
	{
		folder: "internal/house",
		reason: "the rules read the tree as text",
	},
	{
		folder: "internal/tools/...",
		reason: "tools of the build are programs of their own",
	},
	{
		folder: "packaging/pack",
		reason: "a program of the build: it reads tables and files, and no room of the house",
	},
	{
		folder: "test/...",
		knows:  []string{"test/...", "cmd/...", "agent", "discovery", "csr", "kubelet/...", "systemd", "internal/..."},
		reason: "the scenarios look at the house from outside and may open every door",
	},
}

// library is one row of the list of what we build on: who may import it, and why
// nobody else.
type library struct {
	path   string   // an import path; everything below it belongs to it
	in     []string // folders whose shipped code may
	tests  []string // folders whose tests may, besides
	reason string
}

// anywhere is for libraries that say what a value is and do nothing.
var anywhere = []string{"..."}

// libraries: the longest path that fits decides, so a row may be an exception to
// a shorter one. test/ may import what it likes: it is never shipped.
var libraries = []library{
	{path: "github.com/spf13/cobra", in: []string{"cmd/..."}, reason: "behind the door there are no flags, only agent.Config"},
	{path: "github.com/spf13/pflag", in: []string{"cmd/..."}, reason: "behind the door there are no flags, only agent.Config"},
	{path: "github.com/spf13/viper", in: []string{"cmd/..."}, reason: "it guesses types and swallows mistyped names; only the door knows how to hold it"},
	{path: "go.yaml.in/yaml/v3", in: []string{"cmd/...", "discovery", "kubelet", "packaging/pack"}, tests: anywhere, reason: "documents that people or strangers wrote are judged as yaml.Node, with lines, keys and doubles; others have no document"},
	{path: "github.com/fsnotify/fsnotify", in: []string{"cmd/..."}, reason: "linked by viper already; the door watches files that people edit, the rooms are told"},
	{path: "github.com/sirupsen/logrus", in: []string{"cmd/...", "agent", "discovery", "csr", "kubelet", "systemd"}, tests: anywhere, reason: "as a FieldLogger, handed in; what has no story to tell does not log"},
	{path: "github.com/coreos/go-systemd/v22", in: []string{"systemd"}, reason: "one package talks to systemd, so that the rest is tested without it"},
	{path: "github.com/godbus/dbus/v5", in: []string{"systemd"}, reason: "one package talks to systemd, so that the rest is tested without it"},
	{path: "k8s.io/client-go", in: []string{"internal/apiclient"}, tests: []string{"internal/testapi"}, reason: "one package knows the client library; its retries, caches and rate limits stay there"},
	{path: "k8s.io/client-go/util/certificate", tests: []string{"kubelet/compat", "test/..."}, reason: "tests only: the oracle for the layout of the kubelet's FileStore; its writers are not atomic"},
	{path: "k8s.io/client-go/util/cert", tests: []string{"kubelet/compat"}, reason: "tests only: the oracle for the kubelet's serving pair; its own are two RSA keys, made while the node waits"},
	{path: "k8s.io/client-go/tools/clientcmd", tests: []string{"kubelet/compat", "discovery/compat"}, reason: "tests only: the oracle for kubeconfigs; it obeys exec and file entries that a stranger may have written"},
	{path: "k8s.io/klog/v2", in: []string{"internal/apiclient"}, reason: "client-go speaks through it, past our logger; it is held where client-go is"},
	{path: "k8s.io/cluster-bootstrap", tests: []string{"discovery", "internal/testapi"}, reason: "tests only: the oracle for signatures; it would bring an obsolete JOSE library"},
	{path: "k8s.io/api", in: []string{"agent", "csr", "kubelet", "internal/apiclient", "internal/testapi"}, tests: anywhere, reason: "types of the objects that are sent and seen; discovery reads a stranger's bytes with structs of its own"},
	{path: "k8s.io/apimachinery", in: []string{"agent", "csr", "kubelet", "internal/apiclient", "internal/testapi"}, tests: anywhere, reason: "metadata, watches and the rules of names; discovery reads a stranger's bytes with structs of its own"},
	{path: "sigs.k8s.io/yaml", in: []string{"cmd/...", "discovery", "kubelet", "internal/testapi"}, tests: anywhere, reason: "strict decoding of documents; who has no document needs no decoder"},
	{path: "golang.org/x/sys", in: anywhere, reason: "system calls that package os does not offer"},
	{path: "golang.org/x/text", in: []string{"discovery"}, reason: "host names are normalised where they come in"},
	{path: "golang.org/x/net", in: []string{"discovery"}, reason: "host names are normalised where they come in"},
	{path: "golang.org/x/net/http/httpproxy", in: []string{"cmd/...", "agent"}, reason: "which proxy is asked is configuration; the rooms are given a function"},
	{path: "golang.org/x/term", in: []string{"cmd/..."}, reason: "only the door asks whether a person is looking"},
	{path: "go.uber.org/goleak", tests: anywhere, reason: "tests only: every watch must end"},
}

// banned may be linked by nobody, not even through others ("x/..." with all below).
var banned = []struct{ path, reason string }{
	{"k8s.io/client-go/kubernetes/...", "the typed clientset drags every API group in: 27 MB against 14 MB"},
	{"google.golang.org/grpc/...", "8 MB of binary; a socket that answers says enough about a runtime"},
	{"github.com/prometheus/client_golang/prometheus/promhttp", "2.5 MB of binary for a page of text"},
	{"k8s.io/cluster-bootstrap/...", "its obsolete JOSE library; the one valid signature is recomputed"},
	{"gopkg.in/square/go-jose.v2/...", "obsolete, and never needed to check a signature that one can make oneself"},
	// Its api package alone comes with client-go's rest; that only names fields.
	{"k8s.io/client-go/tools/clientcmd", "it runs what a kubeconfig names; ours is read by structs that know no such field"},
	{"testing", "flags and helpers of tests in a root program"},
}

// topFolders are all there may be at the top of the tree.
var topFolders = []string{"cmd", "agent", "discovery", "csr", "kubelet", "systemd", "internal", "packaging", "test", "docs"}

func TestNoFolderAtTheTopIsUnknown(t *testing.T) {
	entries, err := os.ReadDir(top(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		name := entry.Name()
		if !entry.IsDir() || strings.HasPrefix(name, ".") || name == "bin" || name == "dist" {
			continue
		}
		if !slices.Contains(topFolders, name) {
			t.Errorf("%s/ is not in the plan of the house: every folder at the top has one responsibility, named in docs/architecture.md and in topFolders", name)
		}
	}
}

func TestEveryArrowIsInThePlan(t *testing.T) {
	said := map[string]bool{}
	for _, f := range tree(t) {
		for _, path := range imports(t, f) {
			if err := allowed(f, path); err != nil && !said[f.folder+err.Error()] {
				said[f.folder+err.Error()] = true
				t.Errorf("%s: %v", f.path, err)
			}
		}
	}
}

// TestArrowsThatMustNotBeAreRefused shows that the plan says no where it must: a
// rule that nothing can break proves nothing.
func TestArrowsThatMustNotBeAreRefused(t *testing.T) {
	for _, c := range []struct {
		from string
		test bool
		path string
	}{
		{"discovery", false, module + "/csr"},
		{"csr", true, module + "/kubelet"},
		{"kubelet", false, module + "/systemd"},
		{"systemd", false, module + "/agent"},
		{"internal/fault", false, module + "/agent"},
		{"internal/testapi", true, module + "/internal/apiclient"},
		{"agent", false, module + "/internal/testapi"},
		{"agent", false, "github.com/spf13/viper"},
		{"agent", true, "github.com/spf13/cobra"},
		{"agent", false, "github.com/coreos/go-systemd/v22/dbus"},
		{"csr", false, "k8s.io/client-go/rest"},
		{"kubelet", false, "k8s.io/client-go/util/certificate"},
		{"internal/apiclient", false, "k8s.io/client-go/kubernetes"},
		{"discovery", false, "k8s.io/cluster-bootstrap/token/jws"},
		{"discovery", false, "k8s.io/api/core/v1"},
		{"internal/atomicfile", false, "github.com/sirupsen/logrus"},
		{"internal/apiclient", false, module + "/systemd"},
		{"agent", false, module + "/internal/testsystemd"},
		{"agent", false, "github.com/somebody/else"},
		{"agent", false, "testing"},
		{"gallery", false, "fmt"},
	} {
		t.Run(c.from+" must not know "+c.path, func(t *testing.T) {
			if allowed(file{folder: c.from, test: c.test}, c.path) == nil {
				t.Error("the plan allows it")
			}
		})
	}
}

// TestNothingBannedIsLinked looks at the whole program, with all that it draws in.
func TestNothingBannedIsLinked(t *testing.T) {
	root := top(t)
	if _, err := os.Stat(filepath.Join(root, "cmd/bootstrap-agent")); err != nil {
		t.Skip("cmd/bootstrap-agent is not there yet")
	}
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "./cmd/bootstrap-agent")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, complaints.String())
	}
	for path := range strings.Lines(string(out)) {
		path = strings.TrimSpace(path)
		for _, ban := range banned {
			if fits(path, ban.path) {
				t.Errorf("%s is linked into the program (`go mod why %s` tells by whom): %s", path, path, ban.reason)
			}
		}
	}
}

func TestEveryRowHasAReason(t *testing.T) {
	for _, r := range rooms {
		if len(r.reason) < 20 {
			t.Errorf("room %s: no reason", r.folder)
		}
	}
	for _, l := range libraries {
		if len(l.reason) < 20 {
			t.Errorf("library %s: no reason", l.path)
		}
	}
}

// allowed says why folder f.folder may not import path, or nil.
func allowed(f file, path string) error {
	var room *room
	for i := range rooms {
		if fits(f.folder, rooms[i].folder) {
			room = &rooms[i]
			break
		}
	}
	if room == nil {
		return fmt.Errorf("%s is not in the plan of the house: add a row to rooms with what it may know and why", f.folder)
	}
	if below(path, module) {
		return allowedRoom(f, *room, strings.TrimPrefix(strings.TrimPrefix(path, module), "/"))
	}
	if strings.HasPrefix(f.folder, "test/") {
		return nil // never shipped; what it draws in costs nobody anything
	}
	if !f.test {
		for _, ban := range banned {
			if fits(path, ban.path) {
				return fmt.Errorf("may not import %s: %s", path, ban.reason)
			}
		}
	}
	return allowedLibrary(f, path)
}

func allowedRoom(f file, room room, target string) error {
	if target == f.folder {
		return nil // an external test of its own package
	}
	if slices.ContainsFunc(room.knows, func(p string) bool { return fits(target, p) }) {
		return nil
	}
	if f.test && slices.ContainsFunc(room.tests, func(p string) bool { return fits(target, p) }) {
		return nil
	}
	return fmt.Errorf("%s may not know %s: %s", room.folder, target, room.reason)
}

func allowedLibrary(f file, path string) error {
	if first, _, _ := strings.Cut(path, "/"); !strings.Contains(first, ".") {
		return nil // the standard library
	}
	var row *library
	for i := range libraries {
		if below(path, libraries[i].path) && (row == nil || len(libraries[i].path) > len(row.path)) {
			row = &libraries[i]
		}
	}
	if row == nil {
		return fmt.Errorf("imports %s, which is not on the list of libraries: add a row with who may use it and why it is worth its weight", path)
	}
	fit := func(p string) bool { return fits(f.folder, p) }
	if slices.ContainsFunc(row.in, fit) || f.test && slices.ContainsFunc(row.tests, fit) {
		return nil
	}
	return fmt.Errorf("may not import %s: %s", path, row.reason)
}

// fits says whether a folder is the one a pattern names, or below it ("x/...").
func fits(folder, pattern string) bool {
	if pattern == "..." {
		return true
	}
	if parent, ok := strings.CutSuffix(pattern, "/..."); ok {
		return below(folder, parent)
	}
	return folder == pattern
}

// below says whether a path is parent or something in it.
func below(path, parent string) bool {
	return path == parent || strings.HasPrefix(path, parent+"/")
}

func imports(t *testing.T, f file) []string {
	t.Helper()
	var paths []string
	for _, spec := range f.syntax.Imports {
		path, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatalf("%s: %v", f.path, err)
		}
		paths = append(paths, path)
	}
	return paths
}
