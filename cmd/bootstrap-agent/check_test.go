package main

import (
	"encoding/json"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
)

// cluster starts an API server in this process that behaves.
func cluster(t *testing.T) *testapi.Server {
	t.Helper()
	s, err := testapi.New(testapi.Options{Quiet: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func checkArgs(s *testapi.Server, more ...string) []string {
	return append([]string{"check", "--cluster", "--endpoint", s.Host(), "--token-file", "-"}, more...)
}

func TestCheckClusterIsTheFirstThingToTry(t *testing.T) {
	s := cluster(t)
	d := newDoor(t)
	before := d.files()
	d.app.stdin = strings.NewReader(s.Token() + "\n")
	d.wantCode(0, checkArgs(s)...)
	d.wantText("✓ "+s.Host(), "connection", "signature", "caCertHashes: [\""+s.Pin()+"\"]", "not pinned", s.URL(), "kubeadm token create --print-join-command")
	_, secret, _ := strings.Cut(s.Token(), ".")
	d.wantNoSecret(secret)
	if d.files() != before {
		t.Error("something was written")
	}
	for _, r := range s.Requests() {
		if r.Authorization {
			t.Errorf("%s %s carried a credential", r.Method, r.Path)
		}
	}
}

func TestCheckClusterWithPin(t *testing.T) {
	s := cluster(t)
	d := newDoor(t)
	d.app.stdin = strings.NewReader(s.Token())
	d.wantCode(0, checkArgs(s, "--ca-cert-hash", s.Pin())...)
	d.wantText("pinned", "A machine could join with this.")

	d.app.stdin = strings.NewReader(s.Token())
	d.wantCode(0, checkArgs(s, "-o", "json", "--ca-cert-hash", s.Pin())...)
	var got struct {
		OK        bool
		Pins      []string
		Endpoints []struct{ Reached, Server string }
	}
	if err := json.Unmarshal(d.stdout.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if !got.OK || len(got.Pins) != 1 || got.Pins[0] != s.Pin() || got.Endpoints[0].Reached != "verified" || got.Endpoints[0].Server != s.URL() {
		t.Errorf("got %+v", got)
	}
}

func TestCheckClusterTellsWhatIsWrong(t *testing.T) {
	rows := []struct {
		name  string
		spoil func(s *testapi.Server) (token string, more []string)
		want  fault.Reason
		code  int
	}{
		{"a wrong pin", func(s *testapi.Server) (string, []string) {
			return s.Token(), []string{"--ca-cert-hash", s.ForeignPin()}
		}, fault.CAPinMismatch, fault.ExitTrust},
		{"a wrong secret", func(s *testapi.Server) (string, []string) {
			id, _, _ := strings.Cut(s.Token(), ".")
			return id + ".aaaaaaaabbbbbbbb", nil
		}, fault.SignatureMismatch, fault.ExitTrust},
		{"an unknown token", func(s *testapi.Server) (string, []string) { return goodToken, nil }, fault.TokenUnknown, fault.ExitRefused},
		{"no signer", func(s *testapi.Server) (string, []string) { s.RemoveSignatures(); return s.Token(), nil }, fault.NoSignatures, fault.ExitRefused},
		{"no cluster-info", func(s *testapi.Server) (string, []string) { s.DeleteClusterInfo(); return s.Token(), nil }, fault.ClusterInfoMissing, fault.ExitRefused},
		{"a closed cluster-info", func(s *testapi.Server) (string, []string) { s.ClusterInfoForbidden(true); return s.Token(), nil }, fault.ClusterInfoForbidden, fault.ExitRefused},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			s := cluster(t)
			d := newDoor(t)
			token, more := row.spoil(s)
			for _, output := range []string{"text", "json"} {
				d.app.stdin = strings.NewReader(token)
				d.wantCode(row.code, checkArgs(s, append(more, "-o", output)...)...)
				d.wantText(string(row.want))
				_, secret, _ := strings.Cut(token, ".")
				d.wantNoSecret(secret)
			}
		})
	}
}

func TestCheckClusterWithNobodyThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	d := newDoor(t)
	d.app.stdin = strings.NewReader(goodToken)
	d.wantCode(fault.ExitTemporary, "check", "--cluster", "--endpoint", address, "--token-file", "-")
	d.wantText("✗ "+address, "EndpointUnreachable", "refused")
}

func TestCheckClusterUsesTheConfig(t *testing.T) {
	s := cluster(t)
	d := newDoor(t)
	token := d.write("token", s.Token()+"\n", 0o600)
	d.write("config.yaml", "endpoints: [\""+s.Host()+"\"]\ntokenFile: "+token+"\n", 0o600)
	// What a join would say counts, not what could be found out.
	d.wantCode(fault.ExitConfig, "check", "--cluster")
	d.wantText("PinRequired", s.Pin())
	d.write("config.yaml", "endpoints: [\""+s.Host()+"\"]\ntokenFile: "+token+"\ncaCertHashes: [\""+s.Pin()+"\"]\n", 0o600)
	d.wantCode(0, "check", "--cluster")

	if err := os.Chmod(token, 0o644); err != nil {
		t.Fatal(err)
	}
	d.wantCode(fault.ExitConfig, "check", "--cluster")
	d.wantText("may be read by others (mode 0644)")
	if err := os.Remove(token); err != nil {
		t.Fatal(err)
	}
	d.wantCode(fault.ExitConfig, "check", "--cluster")
	d.wantText("TokenMissing")
}
