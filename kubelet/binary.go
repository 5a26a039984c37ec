package kubelet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// BinaryPaths are the places where packages put the kubelet, in the order in
// which they are looked at.
func BinaryPaths() []string {
	return []string{"/usr/bin/kubelet", "/usr/local/bin/kubelet", "/opt/bin/kubelet"}
}

// FindBinary returns the configured binary if there is one, else the first of
// candidates (BinaryPaths) that is a program. Nothing else is tried: PATH is
// not the same for a service and a person.
func FindBinary(configured string, candidates []string) (string, error) {
	if configured != "" {
		if !filepath.IsAbs(configured) || control(configured) {
			return "", fault.New(fault.ConfigInvalid, "kubelet.binary %s: must be an absolute path", fault.Quote(configured))
		}
		if err := program(configured); err != nil {
			return "", fault.New(fault.KubeletMissing, "kubelet.binary %s: %w", configured, err).
				WithHint("Install the kubelet there, or set `kubelet.binary` to where it is.")
		}
		return configured, nil
	}
	var seen []string
	for _, path := range candidates {
		err := program(path)
		if err == nil {
			return path, nil
		}
		seen = append(seen, fmt.Sprintf("%s: %v", path, err))
	}
	return "", fault.New(fault.KubeletMissing, "no kubelet on this machine (%s)", strings.Join(seen, "; "))
}

// OtherBinaries returns those of candidates that are another program than the
// one that is taken, so that it can be said which of them runs.
func OtherBinaries(taken string, candidates []string) []string {
	mine, err := os.Stat(taken)
	if err != nil {
		return nil
	}
	var others []string
	for _, path := range candidates {
		if info, err := os.Stat(path); err == nil && !os.SameFile(info, mine) && program(path) == nil && !slices.Contains(others, path) {
			others = append(others, path)
		}
	}
	return others
}

func program(path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return errors.New(detail(err))
	case !info.Mode().IsRegular():
		return errors.New("is no regular file")
	case info.Mode().Perm()&0o111 == 0:
		return errors.New("is not executable")
	}
	return nil
}

// Version is a kubelet's version.
type Version struct {
	Major, Minor int
	Text         string // as in v1.36.3
}

// OldestMinor is the oldest kubelet 1.x that is supported.
const OldestMinor = 30

// versionPattern is made when it is first needed: it takes a millisecond, and
// every start of every command would wait for it.
var versionPattern = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^Kubernetes (v(0|[1-9][0-9]{0,3})\.(0|[1-9][0-9]{0,3})(?:\.[0-9A-Za-z.+-]{1,100})?)\s*$`)
})

// ParseVersion reads what `kubelet --version` prints.
func ParseVersion(out string) (Version, error) {
	m := versionPattern().FindStringSubmatch(out)
	if m == nil {
		return Version{}, fmt.Errorf("no version of a kubelet: %s", fault.Quote(out))
	}
	major, err := strconv.Atoi(m[2])
	if err != nil {
		return Version{}, fmt.Errorf("no version of a kubelet: %w", err)
	}
	minor, err := strconv.Atoi(m[3])
	if err != nil {
		return Version{}, fmt.Errorf("no version of a kubelet: %w", err)
	}
	return Version{Major: major, Minor: minor, Text: m[1]}, nil
}

// Supported returns a KubeletTooOld fault for a version below the floor.
func (v Version) Supported() error {
	if v.Major > 1 || v.Major == 1 && v.Minor >= OldestMinor {
		return nil
	}
	return fault.New(fault.KubeletTooOld, "the kubelet is %s; 1.%d is the oldest supported", v.Text, OldestMinor)
}

// Run runs a program and returns its standard output. It is a seam for tests.
type Run func(ctx context.Context, path string, args ...string) ([]byte, error)

// BinaryVersion asks a kubelet for its version. A nil run means RunProgram.
func BinaryVersion(ctx context.Context, path string, run Run) (Version, error) {
	if run == nil {
		run = RunProgram
	}
	out, err := run(ctx, path, "--version")
	if err != nil {
		if ctx.Err() != nil {
			return Version{}, fmt.Errorf("cannot run %s --version: %w", path, ctx.Err())
		}
		return Version{}, fault.New(fault.KubeletMissing, "cannot run %s --version: %w", path, err).
			WithHint("Run it by hand; most often the file is damaged, or built for another architecture.")
	}
	v, err := ParseVersion(string(out))
	if err != nil {
		return Version{}, fault.New(fault.KubeletMissing, "%s is not a kubelet: %w", path, err)
	}
	return v, nil
}

// Identity is what a program's file is known by: another string whenever the file
// was replaced or written to (device, inode, size, times of change). It is for
// compiled programs alone: what a script runs may change while the script does
// not, so that a script, like anything else, is an error.
func Identity(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	magic := make([]byte, 4)
	if _, err := io.ReadFull(file, magic); err != nil || string(magic) != "\x7fELF" {
		return "", fmt.Errorf("%s is no compiled program", path)
	}
	var s syscall.Stat_t
	if err := syscall.Fstat(int(file.Fd()), &s); err != nil {
		return "", fmt.Errorf("cannot look at %s: %w", path, err)
	}
	return fmt.Sprintf("%d:%d:%d:%d.%09d:%d.%09d", s.Dev, s.Ino, s.Size, s.Mtim.Sec, s.Mtim.Nsec, s.Ctim.Sec, s.Ctim.Nsec), nil
}

// Unusable tells a binary that no kernel will run (built for another machine,
// not executable, gone) from one that only could not be asked here: a wrapper
// may need more than an empty environment, or less of a sandbox.
func Unusable(err error) bool {
	return errors.Is(err, syscall.ENOEXEC) || errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist)
}

const (
	programTimeout = 20 * time.Second // a cold disk may have to bring 100 MB
	programOutput  = 4096
)

// RunProgram runs a program with an empty environment and bounds its time and
// its output.
func RunProgram(ctx context.Context, path string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, programTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...) //nolint:gosec // the kubelet that the operator installed
	// The last two halve the time of a kubelet that only prints its version: it has
	// no garbage worth collecting, and nothing to do at once.
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "GOGC=off", "GOMAXPROCS=1"}
	cmd.WaitDelay = time.Second
	out := &bounded{left: programOutput}
	cmd.Stdout = out
	if err := cmd.Run(); err != nil {
		return nil, err
	}
	return out.data, nil
}

// bounded keeps the first bytes and swallows the rest.
type bounded struct {
	data []byte
	left int
}

var _ io.Writer = (*bounded)(nil)

func (b *bounded) Write(p []byte) (int, error) {
	n := min(len(p), b.left)
	b.data = append(b.data, p[:n]...)
	b.left -= n
	return len(p), nil
}
