package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// name of the program and the package: folders that are called so are ours.
const name = "bootstrap-agent"

// entry is a row of nfpm.yaml's contents. Beyond what nfpm itself does, every
// kind of src may be a pattern or a folder, and documentation (type doc, license)
// goes into every format, not into rpm alone.
type entry struct {
	Src      string `yaml:"src"`
	Dst      string `yaml:"dst"`
	Type     string `yaml:"type,omitempty"`
	Packager string `yaml:"packager,omitempty"` // of deb,rpm,tar; empty: all three
	FileInfo info   `yaml:"file_info"`
}

type info struct {
	Mode fs.FileMode `yaml:"mode"`
}

// contents reads the table.
func contents(config string) ([]entry, error) {
	data, err := os.ReadFile(config)
	if err != nil {
		return nil, err
	}
	var table struct {
		Contents []entry `yaml:"contents"`
	}
	if err := yaml.Unmarshal(data, &table); err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", config, err)
	}
	if len(table.Contents) == 0 {
		return nil, fmt.Errorf("%s has no contents", config)
	}
	return table.Contents, nil
}

// expand names every file of a format, and the folders that are ours alone, in
// the order of their paths.
func expand(table []entry, format string) ([]entry, error) {
	var files []entry
	for _, e := range table {
		if e.Packager != "" && !slices.Contains(strings.Split(e.Packager, ","), format) {
			continue
		}
		if e.FileInfo.Mode == 0 {
			return nil, fmt.Errorf("%s: without a mode the one of the builder's checkout would be shipped", e.Dst)
		}
		found, err := match(e)
		if err != nil {
			return nil, err
		}
		files = append(files, found...)
	}
	seen := map[string]entry{}
	for _, f := range files {
		old, twice := seen[f.Dst]
		if twice && (old.Src != f.Src || old.FileInfo != f.FileInfo) {
			return nil, fmt.Errorf("%s comes from %s and from %s", f.Dst, old.Src, f.Src)
		}
		// What is documentation for one row is documentation.
		if old.Type != "" {
			f.Type = old.Type
		}
		seen[f.Dst] = f
		for _, folder := range ours(f.Dst) {
			seen[folder] = entry{Dst: folder, Type: "dir", FileInfo: info{Mode: 0o755}}
		}
	}
	files = files[:0]
	for _, f := range seen {
		files = append(files, f)
	}
	slices.SortFunc(files, func(a, b entry) int { return strings.Compare(a.Dst, b.Dst) })
	return files, nil
}

// match names the files of one row: src itself, what fits it as a pattern, or
// all below it when it is a folder.
func match(e entry) ([]entry, error) {
	var files []entry
	add := func(src, rel string) {
		f := e
		f.Packager, f.Src = "", src
		if rel != "" {
			f.Dst = path.Join(e.Dst, filepath.ToSlash(rel))
		}
		files = append(files, f)
	}
	if e.Type == "dir" {
		add("", "")
		return files, nil
	}
	sources := []string{e.Src}
	pattern := strings.ContainsAny(e.Src, "*?[{")
	if pattern {
		sources = nil
		for _, p := range alternatives(e.Src) {
			found, err := filepath.Glob(p)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", e.Src, err)
			}
			sources = append(sources, found...)
		}
	}
	for _, src := range sources {
		stat, err := os.Lstat(src)
		switch {
		case err != nil:
			return nil, err
		case stat.Mode().IsRegular() && !pattern && !strings.HasSuffix(e.Dst, "/"):
			add(src, "")
		case stat.Mode().IsRegular():
			add(src, filepath.Base(src))
		case stat.IsDir() && !pattern:
			err = filepath.WalkDir(src, func(file string, d fs.DirEntry, err error) error {
				if err != nil || d.IsDir() {
					return err
				}
				if !d.Type().IsRegular() {
					return fmt.Errorf("%s is no plain file", file)
				}
				rel, err := filepath.Rel(src, file)
				add(file, rel)
				return err
			})
			if err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("%s is no plain file", src)
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("nothing fits %s", e.Src)
	}
	return files, nil
}

// alternatives writes a{b,c} as ab and ac.
func alternatives(pattern string) []string {
	head, rest, open := strings.Cut(pattern, "{")
	inner, tail, closed := strings.Cut(rest, "}")
	if !open || !closed {
		return []string{pattern}
	}
	var all []string
	for _, word := range strings.Split(inner, ",") {
		all = append(all, alternatives(head+word+tail)...)
	}
	return all
}

// ours are the folders above a file that only this package has.
func ours(dst string) []string {
	folders := []string{}
	for folder := path.Dir(dst); strings.Contains(folder, "/"+name); folder = path.Dir(folder) {
		folders = append(folders, folder)
	}
	return folders
}

// forNFPM writes the table as nfpm reads it for one format.
func forNFPM(config, format string, out io.Writer) error {
	if format != "deb" && format != "rpm" {
		return errors.New(usage)
	}
	table, err := contents(config)
	if err != nil {
		return err
	}
	files, err := expand(table, format)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(config)
	if err != nil {
		return err
	}
	var all map[string]any
	if err := yaml.Unmarshal(data, &all); err != nil {
		return fmt.Errorf("cannot read %s: %w", config, err)
	}
	if format == "deb" {
		// dpkg has a copyright file in its place; nfpm would write a field that
		// nothing reads. And only rpm knows kinds of files.
		delete(all, "license")
		for i := range files {
			if files[i].Type == "doc" || files[i].Type == "license" {
				files[i].Type = ""
			}
		}
	}
	all["contents"] = files
	all["disable_globbing"] = true // every file is named
	text, err := yaml.Marshal(all)
	if err != nil {
		return err
	}
	_, err = out.Write(text)
	return err
}
