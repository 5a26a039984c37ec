package main

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
)

// certificates tells what the certificates say. Of a file that holds a key, too,
// only the certificates are looked at.
func (r *reporter) certificates(context.Context) (string, error) {
	paths := []string{r.layout.CurrentPair(), r.app.paths.NewPair(), r.layout.CACert(), r.layout.ServingCert(), r.layout.ServerPair()}
	if good, err := r.loader.load(); err == nil && good.agent.Kubelet.ClientCAFile != "" {
		paths = append(paths, good.agent.Kubelet.ClientCAFile)
	}
	var b strings.Builder
	var faults []error
	for _, path := range paths {
		content, err := readConfigFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		fmt.Fprintf(&b, "--- %s\n", path)
		if err != nil {
			fmt.Fprintf(&b, "%s\n", err)
			faults = append(faults, err)
			continue
		}
		n := 0
		for block, rest := pem.Decode(content.data); block != nil; block, rest = pem.Decode(rest) {
			if block.Type != "CERTIFICATE" {
				continue
			}
			n++
			b.WriteString(aboutCertificate(block.Bytes, time.Now()))
		}
		if n == 0 {
			fmt.Fprintf(&b, "no certificate in it, %d bytes\n", len(content.data))
		}
	}
	return b.String(), errors.Join(faults...)
}

func aboutCertificate(der []byte, now time.Time) string {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return "a certificate that cannot be read\n"
	}
	state := "valid"
	switch {
	case now.Before(c.NotBefore):
		state = "NOT VALID YET by this machine's clock"
	case now.After(c.NotAfter):
		state = "EXPIRED by this machine's clock"
	}
	pin := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	text := fmt.Sprintf("subject  %s\nissuer   %s\nserial   %x\nvalid    %s to %s: %s\nkey      %s, CA %t, pin sha256:%s\n", c.Subject, c.Issuer, c.SerialNumber,
		c.NotBefore.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339), state, c.PublicKeyAlgorithm, c.IsCA, hex.EncodeToString(pin[:]))
	if len(c.DNSNames)+len(c.IPAddresses) > 0 {
		text += fmt.Sprintf("names    %s %s\n", c.DNSNames, c.IPAddresses)
	}
	return text + "\n"
}

// mostEntries is how many entries of one folder are listed.
const mostEntries = 200

// files lists what lies where agent and kubelet look: modes, owners, sizes, times.
func (r *reporter) files(context.Context) (string, error) {
	p := r.app.paths
	var b strings.Builder
	var faults []error
	for _, dir := range []string{
		filepath.Dir(r.loader.file), p.State, p.Run, r.layout.Root(), r.layout.PKI(),
		filepath.Join(p.Etc, "kubernetes"), filepath.Join(p.Etc, "kubernetes/manifests"),
	} {
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			fmt.Fprintf(&b, "--- %s: is not there\n", dir)
			continue
		}
		fmt.Fprintf(&b, "--- %s\n%s", dir, fileLine(dir, "."))
		if err != nil {
			fmt.Fprintf(&b, "%s\n", err)
			faults = append(faults, err)
		}
		for i, e := range entries {
			if i == mostEntries {
				fmt.Fprintf(&b, "and %d more\n", len(entries)-i)
				break
			}
			b.WriteString(fileLine(dir, e.Name()))
		}
	}
	fmt.Fprintf(&b, "--- %s, what concerns agent and kubelet\n", p.Units)
	for _, pattern := range []string{"bootstrap-agent*", "bootstrap-agent*/*", "kubelet*", "kubelet*/*", "*.wants/bootstrap-agent*", "*.wants/kubelet*"} {
		found, _ := filepath.Glob(filepath.Join(p.Units, pattern))
		for _, path := range found {
			b.WriteString(fileLine(p.Units, strings.TrimPrefix(path, p.Units+"/")))
		}
	}
	return b.String(), errors.Join(faults...)
}

// fileLine is a line as of ls -ln.
func fileLine(dir, name string) string {
	path := filepath.Join(dir, name)
	info, err := os.Lstat(path)
	if err != nil {
		return fmt.Sprintf("%s: cannot be looked at\n", name)
	}
	owner := "?"
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		owner = fmt.Sprintf("%d:%d", st.Uid, st.Gid)
	}
	target := ""
	if info.Mode().Type() == fs.ModeSymlink {
		if to, err := os.Readlink(path); err == nil {
			target = " -> " + to
		}
	}
	return fmt.Sprintf("%-12s %-9s %8d %s %s%s\n", info.Mode(), owner, info.Size(), info.ModTime().UTC().Format("2006-01-02T15:04:05Z"), name, target)
}

var (
	// secretLine finds values in kubeconfigs and the like, secretVariable in
	// environment files.
	secretLine     = regexp.MustCompile(`(?m)\b(?:token|password|client-key-data)["']?\s*:\s*["']?([^\s"',}]+)`)
	secretVariable = regexp.MustCompile(`(?im)^\s*\w*(?:token|passw|secret|key|credential)\w*=["']?([^\s"']+)`)
	userinfo       = regexp.MustCompile(`://[^:/@\s"]*:([^\s"]+)@`)
)

// secrets reads the secrets that this machine is known to have, so that they are
// found wherever somebody has put them. What cannot be read cannot be shown either,
// but in a journal; there its shape must tell.
func (r *reporter) secrets() []string {
	p := r.app.paths
	var found []string
	read := func(path string) string {
		content, err := readConfigFile(path)
		if err != nil {
			return ""
		}
		return string(content.data)
	}
	whole := []string{defaultTokenFile, filepath.Join(p.Etc, "bootstrap-agent/token"), filepath.Join(p.Etc, "credstore", agent.CredentialName)}
	parts := append([]string{r.loader.file, r.loader.file + ".old"}, kubelet.BootstrapKubeconfigs(p.Etc, r.layout)...)
	if content, err := readConfigFile(r.loader.file); err == nil {
		values, _, _ := judgeYAML(content.path, content.data)
		for _, k := range keys() {
			value, _ := values[k.name].value.(string)
			switch {
			case k.name == "tokenFile" && value != "":
				whole = append(whole, value)
			case k.name == "discoveryFile" && value != "":
				parts = append(parts, value)
			case k.name == "token":
				found = append(found, value)
			}
		}
	}
	credentials := []string{filepath.Join(filepath.Dir(p.Run), "credentials", agentUnit), r.app.getenv("CREDENTIALS_DIRECTORY")}
	for _, dir := range credentials {
		if dir != "" {
			inside, _ := filepath.Glob(filepath.Join(dir, "*"))
			whole = append(whole, inside...)
		}
	}
	for _, path := range whole {
		found = append(found, strings.Fields(read(path))...)
	}
	environment := []string{r.layout.EnvironmentFile(), filepath.Join(p.Etc, "default/kubelet"), filepath.Join(p.Etc, "sysconfig/kubelet"), filepath.Join(p.Etc, "environment")}
	for _, path := range append(parts, environment...) {
		text := read(path)
		for _, find := range []*regexp.Regexp{secretLine, secretVariable, userinfo} {
			for _, m := range find.FindAllStringSubmatch(text, -1) {
				found = append(found, m[1])
				if plain, err := url.PathUnescape(m[1]); err == nil {
					found = append(found, plain)
				}
			}
		}
	}
	return found
}
