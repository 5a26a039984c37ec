package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
)

// hiddenFolders are where the sandbox of the unit sees nothing, or where others
// may write: nothing that the agent depends on may lie there.
func hiddenFolders() []string {
	return []string{"/home", "/root", "/run/user", "/tmp", "/var/tmp"}
}

// pathFault says why a path may not stand in the config, or "". The path itself
// need not exist; what exists of it must be safe from others.
func (a *app) pathFault(path string) string {
	switch {
	case path == "":
		return "must be a path"
	case !filepath.IsAbs(path):
		return "must be an absolute path"
	case filepath.Clean(path) != path:
		return "must be a clean path (no //, no . or .., no slash at the end)"
	}
	if folder := under(path, a.hidden); folder != "" {
		return "lies under " + folder + ", which the service cannot see or others may write to"
	}
	if what := a.walkFault(path); what != "" {
		return what
	}
	// What links lead to has folders of its own.
	switch real := resolved(path); {
	case real == path:
		return ""
	case under(real, a.hidden) != "":
		return "is a link into " + under(real, a.hidden) + ", which the service cannot see or others may write to"
	default:
		return a.walkFault(real)
	}
}

// foldersFault judges the folders of a file that exists, wherever it is.
func (a *app) foldersFault(path string) string {
	path, err := filepath.Abs(path)
	if err != nil {
		return "cannot be found"
	}
	for _, file := range []string{path, resolved(path)} {
		for p := filepath.Dir(file); ; p = filepath.Dir(p) {
			if what := a.ownerFault(p, false, true); what != "" {
				return what
			}
			if p == "/" {
				break
			}
		}
	}
	return ""
}

// walkFault judges a path and all its folders.
func (a *app) walkFault(path string) string {
	exists := false // what lies in p, on this path
	for p := path; ; p = filepath.Dir(p) {
		if what := a.ownerFault(p, p == path, exists); what != "" {
			return what
		}
		if p == "/" {
			return ""
		}
		_, err := os.Lstat(p)
		exists = err == nil
	}
}

// resolved is a path without links, as far as it exists.
func resolved(path string) string {
	rest := ""
	for p := path; p != "/"; p = filepath.Dir(p) {
		if real, err := filepath.EvalSymlinks(p); err == nil {
			return filepath.Join(real, rest)
		}
		if to, err := os.Readlink(p); err == nil { // to where nothing is yet
			if !filepath.IsAbs(to) {
				to = filepath.Join(filepath.Dir(p), to)
			}
			return filepath.Join(to, rest)
		}
		rest = filepath.Join(filepath.Base(p), rest)
	}
	return path
}

func under(path string, folders []string) string {
	for _, f := range folders {
		if path == f || strings.HasPrefix(path, f+"/") {
			return f
		}
	}
	return ""
}

// ownerFault judges one element of a path. A link is judged by what it leads
// to, and by who owns it: whoever may write there may change what we read.
func (a *app) ownerFault(path string, last, exists bool) string {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	what := "its folder " + path
	if last {
		what = "it"
	}
	if link, err := os.Lstat(path); err == nil && atomicfile.Foreign(link) {
		info = link
	}
	if err != nil {
		return what + " cannot be looked at"
	}
	if atomicfile.Foreign(info) {
		return fmt.Sprintf("%s belongs to user %d, not to root", what, info.Sys().(*syscall.Stat_t).Uid) //nolint:forcetypeassert // Foreign has looked
	}
	if info.Mode().Type() == fs.ModeSocket {
		return "" // a socket's mode says who may talk, and its folder who may replace it
	}
	// In a folder such as /tmp nobody replaces what another owns; what is not there
	// yet anybody may make.
	sticky := info.IsDir() && info.Mode()&fs.ModeSticky != 0 && !last && exists
	if info.Mode().Perm()&0o022 != 0 && !sticky {
		return fmt.Sprintf("%s may be written by others (mode %04o)", what, info.Mode().Perm())
	}
	return ""
}

// program is path for what will be the first word of ExecStart=, where systemd
// takes less than elsewhere.
func (j *judge) program(s setting) {
	if text, _ := s.value.(string); strings.ContainsAny(text, "$\"'\\") {
		j.fault(s, "has one of $ \" ' \\, which systemd cannot take in the path of a program")
		return
	}
	j.path(s)
}
