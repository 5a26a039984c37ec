package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// tree writes files into a folder of its own, which becomes the current one.
func tree(t *testing.T, files map[string]string) {
	t.Helper()
	t.Chdir(t.TempDir())
	for name, text := range files {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		// Whatever the builder's umask was: the table's mode is the one that counts.
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

const table = `name: bootstrap-agent
license: Apache-2.0
version: ${VERSION}
contents:
  - {src: "u/*.{service,path,target}", dst: /usr/lib/systemd/system/, file_info: {mode: 0644}}
  - {src: "d", dst: /usr/share/doc/bootstrap-agent/examples/, type: doc, file_info: {mode: 0644}}
  - {src: "d/a.yaml", dst: /usr/share/doc/bootstrap-agent/examples/a.yaml, packager: deb, file_info: {mode: 0644}}
  - {src: "zsh", dst: /usr/share/zsh/vendor-completions/_x, packager: deb, file_info: {mode: 0644}}
  - {src: "zsh", dst: /usr/share/zsh/site-functions/_x, packager: "rpm,tar", file_info: {mode: 0644}}
  - {src: "prog", dst: /usr/bin/prog, file_info: {mode: 0755}}
  - {dst: /usr/share/doc/bootstrap-agent, type: dir, packager: rpm, file_info: {mode: 0755}}
`

func exampleTree(t *testing.T) {
	tree(t, map[string]string{
		"nfpm.yaml": table, "u/one.service": "1", "u/two.path": "2", "u/three.txt": "3",
		"d/a.yaml": "a", "d/deep/b.yaml": "b", "zsh": "z", "prog": "p",
	})
}

func TestEveryFileOfAFormatIsNamedOnce(t *testing.T) {
	exampleTree(t)
	rows, err := contents("nfpm.yaml")
	if err != nil {
		t.Fatal(err)
	}
	common := []string{
		"0755 /usr/bin/prog", "0644 /usr/lib/systemd/system/one.service", "0644 /usr/lib/systemd/system/two.path",
		"0755 /usr/share/doc/bootstrap-agent dir", "0755 /usr/share/doc/bootstrap-agent/examples dir", "0644 /usr/share/doc/bootstrap-agent/examples/a.yaml doc",
		"0755 /usr/share/doc/bootstrap-agent/examples/deep dir", "0644 /usr/share/doc/bootstrap-agent/examples/deep/b.yaml doc",
	}
	for format, more := range map[string][]string{
		"deb": {"0644 /usr/share/zsh/vendor-completions/_x"}, "tar": {"0644 /usr/share/zsh/site-functions/_x"}, "rpm": {"0644 /usr/share/zsh/site-functions/_x"},
	} {
		files, err := expand(rows, format)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range files {
			got = append(got, strings.TrimSpace(octal(f.FileInfo.Mode)+" "+f.Dst+" "+f.Type))
		}
		if want := slices.Concat(common, more); !slices.Equal(got, want) {
			t.Errorf("%s:\n%s\nwant\n%s", format, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

func TestARowThatCannotBeMeantIsRefused(t *testing.T) {
	for name, row := range map[string]struct{ row, want string }{
		"no file fits the pattern":       {`{src: "u/*.timer", dst: /x/, file_info: {mode: 0644}}`, "nothing fits"},
		"the file is not there":          {`{src: "missing", dst: /x, file_info: {mode: 0644}}`, "missing"},
		"no mode":                        {`{src: "prog", dst: /x}`, "without a mode"},
		"two files at one place":         {`{src: "zsh", dst: /usr/bin/prog, file_info: {mode: 0755}}`, "comes from"},
		"one file there with two modes":  {`{src: "prog", dst: /usr/bin/prog, file_info: {mode: 0644}}`, "comes from"},
		"a link, which nobody looked at": {`{src: "link", dst: /x, file_info: {mode: 0644}}`, "no plain file"},
	} {
		t.Run(name, func(t *testing.T) {
			exampleTree(t)
			if err := os.Symlink("prog", "link"); err != nil {
				t.Fatal(err)
			}
			var e entry
			if err := yaml.Unmarshal([]byte(row.row), &e); err != nil {
				t.Fatal(err)
			}
			rows, err := contents("nfpm.yaml")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := expand(append(rows, e), "rpm"); err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("error %v, want one with %q", err, row.want)
			}
		})
	}
}

func TestNFPMIsGivenEveryFileByName(t *testing.T) {
	exampleTree(t)
	for format, wantLicense := range map[string]bool{"deb": false, "rpm": true} {
		var out bytes.Buffer
		if err := forNFPM("nfpm.yaml", format, &out); err != nil {
			t.Fatal(err)
		}
		var got struct {
			License, Version string
			Globbing         bool `yaml:"disable_globbing"`
			Contents         []entry
		}
		if err := yaml.Unmarshal(out.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		docs := 0
		for _, e := range got.Contents {
			if e.Type == "doc" {
				docs++
			}
		}
		if (got.License != "") != wantLicense || got.Version != "${VERSION}" || !got.Globbing || (docs > 0) != wantLicense || len(got.Contents) < 8 {
			t.Errorf("%s: %s", format, out.String())
		}
	}
	if err := forNFPM("nfpm.yaml", "apk", io.Discard); err == nil {
		t.Error("a format that nobody checks was taken")
	}
}

func TestTheTarballIsTheSameWhoeverMakesIt(t *testing.T) {
	exampleTree(t)
	var made [2][]byte
	for i := range made {
		if err := os.Chtimes("prog", time.Now(), time.Now().Add(time.Duration(i)*time.Hour)); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod("zsh", 0o600|os.FileMode(i)); err != nil {
			t.Fatal(err)
		}
		if err := tarball("nfpm.yaml", "out.tar.gz", time.Unix(1700000000, 0)); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile("out.tar.gz")
		if err != nil {
			t.Fatal(err)
		}
		made[i] = data
	}
	if !bytes.Equal(made[0], made[1]) {
		t.Error("times or modes of the builder are in the tar.gz")
	}
	zip, err := gzip.NewReader(bytes.NewReader(made[0]))
	if err != nil {
		t.Fatal(err)
	}
	archive := tar.NewReader(zip)
	for {
		head, err := archive.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		// A folder that others share is not in it: unpacking must not change its mode.
		if head.Typeflag == tar.TypeDir && !strings.Contains(head.Name, name) {
			t.Errorf("the folder %s is in the tar.gz", head.Name)
		}
		if head.Uid != 0 || head.Gid != 0 || head.Uname != "root" || !head.ModTime.Equal(time.Unix(1700000000, 0)) || strings.HasPrefix(head.Name, "/") {
			t.Errorf("%+v", head)
		}
	}
}

func TestTheSBOMNamesEveryModuleWithItsLicense(t *testing.T) {
	built := &debug.BuildInfo{
		GoVersion: "go1.26.8", Main: debug.Module{Path: "example.org/main"},
		Deps:     []*debug.Module{{Path: "example.org/a", Version: "v1.0.0+incompatible", Sum: "h1:x"}, {Path: "example.org/b", Version: "v0.1.0"}},
		Settings: []debug.BuildSetting{{Key: "GOARCH", Value: "arm64"}, {Key: "-ldflags", Value: "/home/somebody"}},
	}
	licenses := map[string]string{"std": "BSD-3-Clause", "example.org/a": "MIT", "example.org/b": "Apache-2.0 AND MIT"}
	known := func(module string) (string, error) { return licenses[module], nil }
	made := func(sum string) (bom, string) {
		b, err := makeBOM(built, "1.2.3+4", sum, time.Unix(1700000000, 0).UTC(), known)
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		return b, string(text)
	}
	b, text := made("aa")
	if _, again := made("aa"); again != text {
		t.Error("two documents of one program differ")
	}
	if other, _ := made("bb"); other.Serial == b.Serial || !strings.HasPrefix(b.Serial, "urn:uuid:") || len(b.Serial) != len("urn:uuid:")+36 {
		t.Errorf("serial numbers %s and %s", b.Serial, other.Serial)
	}
	for _, want := range []string{
		`"purl":"pkg:golang/std@1.26.8"`, `"purl":"pkg:golang/example.org/a@v1.0.0%2Bincompatible","properties":[{"name":"go:sum","value":"h1:x"}]`,
		`"expression":"Apache-2.0 AND MIT"`, `"timestamp":"2023-11-14T22:13:20Z"`, `"content":"aa"`, `"go:build:GOARCH","value":"arm64"`,
		`"dependsOn":["pkg:golang/std@1.26.8","pkg:golang/example.org/a@v1.0.0%2Bincompatible","pkg:golang/example.org/b@v0.1.0"]`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the document lacks %s:\n%s", want, text)
		}
	}
	if strings.Contains(text, "/home/somebody") {
		t.Error("a path of the builder is in the document")
	}
}

func TestALicenseIsToldByTheSentenceThatGrants(t *testing.T) {
	const grantBSD = "Redistribution and use in source and binary forms, with or without\nmodification, are permitted "
	for text, want := range map[string]string{
		"                Apache License\n          Version 2.0, January 2004":                            "Apache-2.0",
		"Permission is hereby granted, free of charge, to any\nperson obtaining a copy of this software": "MIT",
		grantBSD + "... Neither the name of Google Inc. nor":                                             "BSD-3-Clause",
		grantBSD: "BSD-2-Clause",
		"Permission to use, copy, modify, and/or distribute this software for any\npurpose with or without fee": "ISC",
		"GNU GENERAL PUBLIC LICENSE Version 3": "",
		"Licensed under the Apache License, Version 2.0 ...\n" + grantBSD + "... neither the name of the author": "Apache-2.0 AND BSD-3-Clause",
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "LICENSE.txt"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := licensesIn(dir)
		if got != want || (err != nil) != (want == "") {
			t.Errorf("%q: %q, %v, want %q", text, got, err, want)
		}
	}
}

func octal(mode os.FileMode) string {
	const digits = "01234567"
	return "0" + string([]byte{digits[mode>>6&7], digits[mode>>3&7], digits[mode&7]})
}
