package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

const (
	// credstore is where systemd looks for credentials that a unit loads by name
	// with LoadCredentialEncrypted=.
	credstore = "/etc/credstore.encrypted" //nolint:gosec // a path
	// encryptAtMost bounds systemd-creds, which may have to talk to a TPM.
	encryptAtMost = time.Minute
)

// tokenEncrypt makes an encrypted credential of the token that is read from
// stdin. The token goes to systemd-creds by a pipe: never by an argument, never
// by the environment, never through a file.
func (a *app) tokenEncrypt(ctx context.Context, l *loader) error {
	tokenFile, parse, err := l.tokenPath()
	if err != nil {
		return err
	}
	program, err := exec.LookPath("systemd-creds")
	if err != nil {
		return fault.New(fault.MachineUnfit, "cannot encrypt the token: systemd-creds is not here; systemd has it from 250 on").
			WithHint("bootstrap-agent token set")
	}
	token, err := a.readToken(ctx, parse)
	if err != nil {
		return err
	}
	blob, err := encryptCredential(ctx, program, agent.EncryptedCredentialName, token.Bearer())
	if err != nil {
		return err
	}
	path := filepath.Join(a.credstore(), agent.EncryptedCredentialName)
	if err := atomicfile.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if _, err := atomicfile.Write(path, blob, 0o600); err != nil {
		return err
	}
	a.say("wrote %s (0600, encrypted): token with id %s", path, token.ID())
	if _, err := os.Lstat(tokenFile); err == nil {
		a.say("%s is there, too, and is asked first; when its token is spent: rm %s", tokenFile, tokenFile)
	}
	a.say("a service gets its credentials when it starts: systemctl restart bootstrap-agent")
	return nil
}

// credstore is below the configuration's folder in tests, and systemd's otherwise.
func (a *app) credstore() string {
	if a.configFile == defaultConfigFile {
		return credstore
	}
	return filepath.Join(filepath.Dir(a.configFile), filepath.Base(credstore))
}

// encryptCredential has systemd-creds encrypt with what the machine has: its TPM,
// its own key (made when missing), or both. The name becomes part of it: under
// another name systemd does not decrypt it.
func encryptCredential(ctx context.Context, program, name, secret string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, encryptAtMost)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "encrypt", "--name="+name, "-", "-") //nolint:gosec // the program of systemd
	var out, complaint bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(secret), &out, &complaint
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("cannot encrypt the token: systemd-creds: %w: %s", err, fault.Quote(strings.TrimSpace(complaint.String())))
	}
	if out.Len() == 0 || bytes.Contains(out.Bytes(), []byte(secret)) {
		return nil, errors.New("cannot encrypt the token: systemd-creds gave back nothing that is encrypted")
	}
	return out.Bytes(), nil
}
