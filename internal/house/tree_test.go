package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/bootstrap-agent/bootstrap-agent"

// file is one Go file of the tree, read but not compiled: rules hold behind build
// tags too, and while another package does not build.
type file struct {
	path   string // from the top of the tree, with slashes
	folder string // "agent", "internal/fault"; "." at the top
	test   bool
	lines  int
	syntax *ast.File
}

// top returns the top folder of the tree.
func top(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		t.Fatalf("this test looks for the top of the tree two folders up: %v", err)
	}
	return dir
}

// tree reads every Go file of this module. Modules below it (pinned tools, the
// control plane's build) are not the product and keep to themselves.
func tree(t *testing.T) []file {
	t.Helper()
	root := top(t)
	var files []file
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if entry.IsDir() {
			if skipFolder(root, rel) {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(rel, ".go") {
			return nil
		}
		source, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		syntax, err := parser.ParseFile(token.NewFileSet(), path, source, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		files = append(files, file{
			path:   rel,
			folder: filepath.ToSlash(filepath.Dir(rel)),
			test:   strings.HasSuffix(rel, "_test.go"),
			lines:  strings.Count(string(source), "\n"),
			syntax: syntax,
		})
		return nil
	})
	if err != nil {
		t.Fatalf("cannot read the tree: %v", err)
	}
	if len(files) < 5 {
		t.Fatalf("only %d Go files found below %s: these tests would prove nothing", len(files), root)
	}
	return files
}

func skipFolder(root, rel string) bool {
	if rel == "." {
		return false
	}
	name := filepath.Base(rel)
	if strings.HasPrefix(name, ".") || name == "testdata" || rel == "dist" || rel == "bin" {
		return true
	}
	_, err := os.Stat(filepath.Join(root, rel, "go.mod"))
	return err == nil
}

// packages groups files by folder.
func packages(files []file) map[string][]file {
	byFolder := map[string][]file{}
	for _, f := range files {
		byFolder[f.folder] = append(byFolder[f.folder], f)
	}
	return byFolder
}
