package main

import (
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// The form of CycloneDX 1.5 (JSON), as far as it is used here.
type (
	bom struct {
		Format       string       `json:"bomFormat"`
		Spec         string       `json:"specVersion"`
		Serial       string       `json:"serialNumber"`
		Version      int          `json:"version"`
		Metadata     metadata     `json:"metadata"`
		Components   []component  `json:"components"`
		Dependencies []dependency `json:"dependencies"`
	}
	metadata struct {
		Timestamp string    `json:"timestamp"`
		Component component `json:"component"`
	}
	component struct {
		Type       string     `json:"type"`
		Ref        string     `json:"bom-ref"`
		Name       string     `json:"name"`
		Version    string     `json:"version"`
		Hashes     []hash     `json:"hashes,omitempty"`
		Licenses   []license  `json:"licenses"`
		PURL       string     `json:"purl"`
		Properties []property `json:"properties,omitempty"`
	}
	hash struct {
		Alg     string `json:"alg"`
		Content string `json:"content"`
	}
	license struct {
		Expression string `json:"expression"`
	}
	property struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}
	dependency struct {
		Ref string   `json:"ref"`
		On  []string `json:"dependsOn"`
	}
)

// sbomOf writes down what a program is made of: what the linker noted in it, of
// any architecture, and the licenses in the module cache.
func sbomOf(ctx context.Context, program, version string, epoch time.Time, out io.Writer) error {
	built, err := buildinfo.ReadFile(program)
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", program, err)
	}
	data, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	folders, err := moduleFolders(ctx, built)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(data)
	document, err := makeBOM(built, version, hex.EncodeToString(sum[:]), epoch, func(module string) (string, error) {
		return licensesIn(folders[module])
	})
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(document, "", "  ")
	if err != nil {
		return err
	}
	_, err = out.Write(append(text, '\n'))
	return err
}

func makeBOM(built *debug.BuildInfo, version, sum string, epoch time.Time, licenses func(module string) (string, error)) (bom, error) {
	document := bom{Format: "CycloneDX", Spec: "1.5", Version: 1}
	main := component{
		Type: "application", Name: name, Version: version,
		Licenses: []license{{"Apache-2.0"}}, Hashes: []hash{{"SHA-256", sum}},
		PURL: purl(built.Main.Path, version),
	}
	main.Ref = main.PURL
	for _, s := range built.Settings {
		// What makes two builds equal; a path of the builder is not among it.
		if s.Key == "GOOS" || s.Key == "GOARCH" || s.Key == "CGO_ENABLED" || s.Key == "-trimpath" {
			main.Properties = append(main.Properties, property{"go:build:" + s.Key, s.Value})
		}
	}
	document.Metadata = metadata{Timestamp: epoch.Format(time.RFC3339), Component: main}

	modules := []*debug.Module{{Path: "std", Version: strings.TrimPrefix(built.GoVersion, "go")}}
	for _, m := range built.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		modules = append(modules, m)
	}
	links := dependency{Ref: main.Ref, On: []string{}}
	for _, m := range modules {
		found, err := licenses(m.Path)
		if err != nil {
			return bom{}, fmt.Errorf("%s %s: %w", m.Path, m.Version, err)
		}
		c := component{Type: "library", Name: m.Path, Version: m.Version, Licenses: []license{{found}}, PURL: purl(m.Path, m.Version)}
		c.Ref = c.PURL
		if m.Sum != "" {
			c.Properties = []property{{"go:sum", m.Sum}}
		}
		document.Components = append(document.Components, c)
		links.On = append(links.On, c.Ref)
	}
	document.Dependencies = []dependency{links}

	// A name for this document that another build of the same has as well.
	id := sha256.Sum256([]byte(name + " " + version + " " + sum))
	id[6], id[8] = id[6]&0x0f|0x80, id[8]&0x3f|0x80 // a UUID of version 8: made by its own rule
	h := hex.EncodeToString(id[:16])
	document.Serial = "urn:uuid:" + h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
	return document, nil
}

// purl is the name of a module among packages of all kinds.
func purl(module, version string) string {
	return "pkg:golang/" + module + "@" + strings.ReplaceAll(version, "+", "%2B")
}

// moduleFolders tells where the source of each linked module lies.
func moduleFolders(ctx context.Context, built *debug.BuildInfo) (map[string]string, error) {
	args := []string{"list", "-m", "-f", "{{.Path}} {{.Dir}}"}
	for _, m := range built.Deps {
		args = append(args, m.Path)
	}
	list, err := exec.CommandContext(ctx, "go", args...).Output()
	if err != nil {
		return nil, fmt.Errorf("cannot list the modules: %w", err)
	}
	root, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return nil, fmt.Errorf("cannot find Go's own source: %w", err)
	}
	folders := map[string]string{"std": strings.TrimSpace(string(root))}
	for line := range strings.Lines(string(list)) {
		module, folder, _ := strings.Cut(strings.TrimSpace(line), " ")
		folders[module] = folder
	}
	return folders, nil
}

var licenseFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying)`)

// licensesIn names the licenses of a module. One that cannot be told is an error:
// what is linked must be ours to pass on.
func licensesIn(folder string) (string, error) {
	files, err := os.ReadDir(folder)
	if err != nil {
		return "", err
	}
	var found []string
	for _, f := range files {
		if f.IsDir() || !licenseFile.MatchString(f.Name()) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(folder, f.Name()))
		if err != nil {
			return "", err
		}
		found = append(found, licensesOf(string(text))...)
	}
	if len(found) == 0 {
		return "", fmt.Errorf("no license that is known here in %s", folder)
	}
	slices.Sort(found)
	return strings.Join(slices.Compact(found), " AND "), nil
}

// licensesOf knows licenses by the sentence that grants. A text may hold several.
func licensesOf(text string) []string {
	text = strings.Join(strings.Fields(strings.ToLower(text)), " ")
	var found []string
	for _, l := range []struct{ id, sentence string }{
		{"Apache-2.0", "apache license version 2.0"},
		{"Apache-2.0", "licensed under the apache license, version 2.0"},
		{"MIT", "permission is hereby granted, free of charge, to any person obtaining a copy"},
		{"ISC", "permission to use, copy, modify, and distribute this software for any purpose with or without fee"},
		{"ISC", "permission to use, copy, modify, and/or distribute this software for any purpose with or without fee"},
	} {
		if strings.Contains(text, l.sentence) {
			found = append(found, l.id)
		}
	}
	if strings.Contains(text, "redistribution and use in source and binary forms") {
		if strings.Contains(text, "neither the name") {
			found = append(found, "BSD-3-Clause")
		} else {
			found = append(found, "BSD-2-Clause")
		}
	}
	return found
}
