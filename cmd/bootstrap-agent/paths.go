package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
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
	for p := path; ; p = filepath.Dir(p) {
		if what := a.ownerFault(p, p == path); what != "" {
			return what
		}
		if p == "/" {
			return ""
		}
	}
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
// to: whoever may write there may change what we read.
func (a *app) ownerFault(path string, last bool) string {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	what := "its folder " + path
	if last {
		what = "it"
	}
	if err != nil {
		return what + " cannot be looked at"
	}
	if last {
		if real, err := filepath.EvalSymlinks(path); err == nil && under(real, a.hidden) != "" {
			return "is a link into " + under(real, a.hidden) + ", which the service cannot see or others may write to"
		}
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	if st.Uid != 0 && int(st.Uid) != a.uid {
		return fmt.Sprintf("%s belongs to user %d, not to root", what, st.Uid)
	}
	if info.Mode().Type() == fs.ModeSocket {
		return "" // a socket's mode says who may talk, and its folder who may replace it
	}
	sticky := info.IsDir() && info.Mode()&fs.ModeSticky != 0 && !last
	if info.Mode().Perm()&0o022 != 0 && !sticky {
		return fmt.Sprintf("%s may be written by others (mode %04o)", what, info.Mode().Perm())
	}
	return ""
}
