package systemd

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// headerMark begins every file that this package writes, and nothing else: a
// unit without it is somebody else's. No version stands in the header, or each
// upgrade of the agent would look like a change of the unit.
const headerMark = "# Written by bootstrap-agent."

const unitHeader = headerMark + ` Changes made here are reported as drift, and left
# as they are unless its configuration says repair: true. To have other arguments, set
# kubelet.extraArgs there and run ` + "`bootstrap-agent apply`" + `. To change anything else, add a
# drop-in of your own that sorts after ` + DropInName + `: kubelet.service.d/95-local.conf
`

const dropInHeader = unitHeader + `#
# It repeats the whole of what the kubelet needs, so that it decides whichever
# kubelet.service and 10-kubeadm.conf are installed here, now or later. Their
# ExecStart=, Type=, Restart= and conditions, which speak of another way to run
# it, do not count; all else of theirs stays (Wants=, After=, ExecStartPre=,
# Environment=, EnvironmentFile=, resource limits).
`

// ExtraArgs is the variable by which the packages of the Kubernetes project let
// an administrator add arguments, and extraFiles are the files that set it
// (Debian's, then Red Hat's).
const ExtraArgs = "KUBELET_EXTRA_ARGS"

const extraArgs = "$" + ExtraArgs

var extraFiles = []string{"/etc/default/kubelet", "/etc/sysconfig/kubelet"}

// KubeletService says what the kubelet's unit has to hold.
type KubeletService struct {
	Binary    string   // absolute path
	Args      []string // as the program shall get them, without the binary
	After     []string // units to start after, such as containerd.service
	Condition string   // the kubelet is not started before this path exists
	// EnvironmentFiles are read last and so win; one that is missing does not
	// keep the kubelet from starting.
	EnvironmentFiles []string
	// Variables stand on the command line behind Args, by name: their words are of
	// whoever sets them.
	Variables []string
	// Alien: there is a kubelet.service that is not ours (see Manager.Existing).
	// Then only the drop-in is made.
	Alien bool
	// Read are the EnvironmentFile=s that the unit which is not ours reads by
	// itself. They keep their place in its order: the last file wins.
	Read []string
}

// Rendered is what Render makes of a KubeletService: the same value gives the
// same bytes.
type Rendered struct {
	Unit   []byte // nil where the unit is somebody else's
	DropIn []byte
	// ExecStart is what systemd will say when asked what it runs: $ is doubled
	// in it, since variables are replaced only at start.
	ExecStart []string
}

// File is one file with the content it shall have.
type File struct {
	Path string
	Data []byte
}

// Files returns the files of r below dir (UnitDir), in the order of writing.
func (r Rendered) Files(dir string) []File {
	files := make([]File, 0, 2)
	if r.Unit != nil {
		files = append(files, File{filepath.Join(dir, KubeletUnit), r.Unit})
	}
	return append(files, File{filepath.Join(dir, KubeletUnit+".d", DropInName), r.DropIn})
}

// Render makes the unit file and the drop-in. All faults of s come at once.
func Render(s KubeletService) (Rendered, error) {
	lines, err := s.escape()
	if err != nil {
		return Rendered{}, fmt.Errorf("cannot write %s: %w", KubeletUnit, err)
	}
	r := Rendered{DropIn: lines.file(dropInHeader, true), ExecStart: []string{s.Binary}}
	for _, arg := range s.Args {
		r.ExecStart = append(r.ExecStart, strings.ReplaceAll(arg, "$", "$$"))
	}
	for _, name := range s.Variables {
		r.ExecStart = append(r.ExecStart, "$"+name)
	}
	r.ExecStart = append(r.ExecStart, extraArgs)
	if !s.Alien {
		r.Unit = lines.file(unitHeader, false)
	}
	return r, nil
}

// escaped holds the values of a KubeletService as they stand in a unit file.
type escaped struct {
	exec             []string
	after            []string
	condition        string
	environmentFiles []string
	unitFiles        []string // those of extraFiles for our own unit, and
	dropInFiles      []string // for the drop-in: never before a file of a person's own
}

func (s KubeletService) escape() (escaped, error) {
	var (
		e    escaped
		errs []error
	)
	add := func(to *[]string, what, text string, escape func(string) (string, error)) {
		word, err := escape(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s %q %w", what, shorten(text), err))
		}
		*to = append(*to, word)
	}
	add(&e.exec, "the kubelet's path", s.Binary, escapeBinary)
	for _, arg := range s.Args {
		add(&e.exec, "the argument", arg, Escape)
	}
	e.after = []string{"network-online.target"}
	for _, name := range s.After {
		if err := checkUnitName(name); err != nil {
			errs = append(errs, err)
		}
		if !slices.Contains(e.after, name) {
			e.after = append(e.after, name)
		}
	}
	var condition []string
	add(&condition, "the path", s.Condition, escapePath)
	e.condition = condition[0]
	for _, path := range extraFiles {
		switch {
		case !s.Alien:
			e.unitFiles = append(e.unitFiles, "-"+path)
		case !slices.Contains(s.Read, path):
			e.dropInFiles = append(e.dropInFiles, "-"+path)
		}
	}
	for _, name := range s.Variables {
		if !isName(name) {
			errs = append(errs, fmt.Errorf("%q is no name of a variable", shorten(name)))
		}
		e.exec = append(e.exec, "$"+name)
	}
	e.exec = append(e.exec, extraArgs)
	for _, path := range s.EnvironmentFiles {
		add(&e.environmentFiles, "the path", path, func(p string) (string, error) {
			p, err := escapePath(p)
			return "-" + p, err
		})
	}
	return e, errors.Join(errs...)
}

// file is the one renderer of both files. reset clears first what another file
// may have set in lists that would add up otherwise.
func (e escaped) file(header string, reset bool) []byte {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	b.WriteString(header)
	line("")
	line("[Unit]")
	if !reset {
		line("Description=kubelet: The Kubernetes Node Agent")
		line("Documentation=https://kubernetes.io/docs/")
	}
	line("Wants=network-online.target")
	line("After=%s", strings.Join(e.after, " "))
	if reset {
		line("ConditionPathExists=") // clears conditions of every kind
		line("AssertPathExists=")
	}
	line("ConditionPathExists=%s", e.condition)
	line("StartLimitIntervalSec=0")
	line("")
	line("[Service]")
	line("Type=notify")
	files := e.dropInFiles
	if !reset {
		files = e.unitFiles
		line("Environment=%s=", ExtraArgs) // or systemd warns at each start that it is not set
	}
	for _, path := range slices.Concat(files, e.environmentFiles) {
		line("EnvironmentFile=%s", path)
	}
	if reset {
		line("RemainAfterExit=no")
		line("ExecCondition=")
		line("ExecStart=")
	}
	line("ExecStart=%s", strings.Join(e.exec, " \\\n    "))
	line("Restart=always")
	line("RestartSec=10")
	line("TimeoutStartSec=5min")
	line("")
	line("[Install]")
	line("WantedBy=multi-user.target")
	return []byte(b.String())
}

// shorten keeps an error's line readable.
func shorten(s string) string {
	if len(s) > 100 {
		return s[:100] + "..."
	}
	return s
}
