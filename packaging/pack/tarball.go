package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"strings"
	"time"
)

// tarball writes the tar.gz that is unpacked over a root folder.
func tarball(config, to string, epoch time.Time) error {
	table, err := contents(config)
	if err != nil {
		return err
	}
	files, err := expand(table, "tar")
	if err != nil {
		return err
	}
	var out bytes.Buffer
	zip, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return err
	}
	archive := tar.NewWriter(zip)
	for _, f := range files {
		if err := addFile(archive, f, epoch); err != nil {
			return fmt.Errorf("cannot pack %s: %w", f.Dst, err)
		}
	}
	if err := archive.Close(); err != nil {
		return err
	}
	if err := zip.Close(); err != nil {
		return err
	}
	return os.WriteFile(to, out.Bytes(), 0o644)
}

// addFile adds a file, or a folder that is ours: one that others share keeps the
// mode it has on the machine.
func addFile(archive *tar.Writer, f entry, epoch time.Time) error {
	head := &tar.Header{
		Name: strings.TrimPrefix(f.Dst, "/"), Mode: int64(f.FileInfo.Mode.Perm()), ModTime: epoch,
		Uname: "root", Gname: "root", Format: tar.FormatPAX, Typeflag: tar.TypeReg,
	}
	if f.Type == "dir" {
		head.Typeflag = tar.TypeDir
		head.Name += "/"
		return archive.WriteHeader(head)
	}
	data, err := os.ReadFile(f.Src)
	if err != nil {
		return err
	}
	head.Size = int64(len(data))
	if err := archive.WriteHeader(head); err != nil {
		return err
	}
	_, err = archive.Write(data)
	return err
}
