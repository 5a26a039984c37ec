package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
)

// canary stands wherever a secret may have been put by mistake. It must never
// be seen in any output.
const canary = "canary.zq7w3k9x2m5v8b1n"

// goodToken is a token as the judge wants it.
const goodToken = "zq7w3k.x2m5v8b1n4c6y9ta"

// door is the program on scratch folders.
type door struct {
	t              *testing.T
	dir            string
	app            *app
	stdout, stderr bytes.Buffer
}

func newDoor(t *testing.T) *door {
	t.Helper()
	dir := t.TempDir()
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	d := &door{t: t, dir: dir}
	for _, sub := range []string{"state", "run", "kubelet", "units", "etc"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	d.app = &app{
		stdin: strings.NewReader(""), stdout: &d.stdout, stderr: &d.stderr,
		environ: []string{"LANG=C.UTF-8"},
		paths: agent.Paths{
			State: d.path("state"), Run: d.path("run"), Kubelet: d.path("kubelet"), Units: d.path("units"), Etc: d.path("etc"),
		},
		configFile: d.path("config.yaml"),
		hidden:     []string{"/hidden"},
		uid:        os.Geteuid(),
		hostname:   func() (string, error) { return "Worker-9", nil },
		pause:      func(context.Context, time.Duration) {},
	}
	return d
}

func (d *door) path(name string) string { return filepath.Join(d.dir, name) }

func (d *door) write(name, content string, mode os.FileMode) string {
	d.t.Helper()
	path := d.path(name)
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		d.t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		d.t.Fatal(err)
	}
	return path
}

// call runs one command line and returns its exit code.
func (d *door) call(args ...string) int {
	d.t.Helper()
	d.stdout.Reset()
	d.stderr.Reset()
	return d.app.run(context.Background(), args)
}

// generate runs the program that writes what is generated.
func (d *door) generate(want int, args ...string) {
	d.t.Helper()
	d.stdout.Reset()
	d.stderr.Reset()
	if got := d.app.execute(context.Background(), d.app.generateCommand(), args); got != want {
		d.t.Errorf("generate %v: exit code %d, want %d\n%s", args, got, want, d.output())
	}
}

func (d *door) output() string { return d.stdout.String() + d.stderr.String() }

func (d *door) wantCode(want int, args ...string) {
	d.t.Helper()
	if got := d.call(args...); got != want {
		d.t.Errorf("%v: exit code %d, want %d\n%s", args, got, want, d.output())
	}
}

func (d *door) wantText(parts ...string) {
	d.t.Helper()
	for _, part := range parts {
		if !strings.Contains(d.output(), part) {
			d.t.Errorf("output lacks %q:\n%s", part, d.output())
		}
	}
}

func (d *door) wantNoSecret(secrets ...string) {
	d.t.Helper()
	for _, s := range secrets {
		if strings.Contains(d.output(), s) {
			d.t.Errorf("the output shows %q:\n%s", s, d.output())
		}
	}
}

// files lists everything below the scratch folder with content and mode.
func (d *door) files() string {
	d.t.Helper()
	var b strings.Builder
	err := filepath.Walk(d.dir, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		b.WriteString(info.Mode().String() + " " + path + "\n")
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			b.Write(data)
		}
		return nil
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return b.String()
}
