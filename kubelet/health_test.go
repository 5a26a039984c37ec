package kubelet

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

func TestHealthURL(t *testing.T) {
	for name, c := range map[string]struct {
		in  Layers
		url string
	}{
		"nothing said":       {Layers{}, "http://127.0.0.1:10248/healthz"},
		"file":               {Layers{Config: []byte("healthzPort: 1\nhealthzBindAddress: 10.0.0.7\n")}, "http://10.0.0.7:1/healthz"},
		"all addresses":      {Layers{Config: []byte("healthzBindAddress: 0.0.0.0\n")}, "http://127.0.0.1:10248/healthz"},
		"all addresses of 6": {Layers{Config: []byte("healthzBindAddress: \"::\"\n")}, "http://[::1]:10248/healthz"},
		"name":               {Layers{Config: []byte("healthzBindAddress: localhost\n")}, "http://localhost:10248/healthz"},
		"empty and null":     {Layers{Config: []byte("healthzBindAddress: \"\"\nhealthzPort: ~\n")}, "http://127.0.0.1:10248/healthz"},
		"off":                {Layers{Config: []byte("healthzPort: 0\n")}, ""},
		"drop-in":            {Layers{Config: []byte("healthzPort: 0\n"), DropIns: [][]byte{[]byte("healthzPort: 1\n"), []byte("healthzPort: 2\n"), []byte("a: b\n")}}, "http://127.0.0.1:2/healthz"},
		"argument":           {Layers{Config: []byte("healthzPort: 0\n"), Args: []string{"--healthz_port=3", "--healthz-bind-address=::1", "-v=4", "--x"}}, "http://[::1]:3/healthz"},
		"off by argument":    {Layers{Args: []string{"--healthz-port=0"}}, ""},
	} {
		url, enabled, err := c.in.HealthURL()
		if err != nil || url != c.url || enabled != (c.url != "") {
			t.Errorf("%s: %q, %t, %v", name, url, enabled, err)
		}
	}
	for text, in := range map[string]Layers{
		"does not parse":  {Config: []byte("[")},
		"drop-in 1":       {DropIns: [][]byte{[]byte("[")}},
		"whole number":    {Config: []byte("healthzPort: 1.5\n")},
		"must be 0 to":    {Config: []byte("healthzPort: 65536\n")},
		"healthzPort -1":  {Config: []byte("healthzPort: -1\n")},
		"an IP address":   {Config: []byte("healthzBindAddress: evil.example.org\n")},
		"\"1.2.3.4/x?\"":  {Config: []byte("healthzBindAddress: 1.2.3.4/x?\n")},
		"--healthz-port:": {Args: []string{"--healthz-port=x"}},
	} {
		_, _, err := in.HealthURL()
		wantFault(t, err, fault.ConfigInvalid, text)
	}
}

func TestDropInsAreReadInTheKubeletsOrder(t *testing.T) {
	dir := t.TempDir()
	for name, data := range map[string]string{"b.conf": "2", "a/z.conf": "1", "c.yaml": "no", "c.conf.bak": "no", "d.conf": "3"} {
		write(t, dir+"/"+name, []byte(data), 0o600)
	}
	got, err := DropIns(dir)
	if err != nil || len(got) != 3 || string(got[0]) != "1" || string(got[1]) != "2" || string(got[2]) != "3" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := DropIns(dir + "/none"); err != nil || len(got) != 0 {
		t.Errorf("%q, %v", got, err)
	}
	symlink(t, "nowhere", dir+"/x.conf")
	_, err = DropIns(dir)
	wantFault(t, err, fault.ConfigInvalid, "kubelet.configDir")
}

func TestHealthCheck(t *testing.T) {
	defer goleak.VerifyNone(t)
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		text    string
	}{
		"ok":        {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }, ""},
		"unhealthy": {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "[-]syncloop failed\nmore", 500) }, `500: "[-]syncloop failed\nmore\n"`},
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
		}, "302"},
		"flood": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(500)
			_, _ = io.WriteString(w, strings.Repeat("x", 1<<20))
		}, "500"},
		"breaks off": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "cannot ask"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(c.handler)
			defer server.Close()
			err := NewHealth(server.URL + "/healthz").Check(t.Context())
			if c.text == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantFault(t, err, fault.KubeletUnhealthy, c.text)
			if len(err.Error()) > 500 || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v", err)
			}
		})
	}
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	wantFault(t, NewHealth(server.URL).Check(t.Context()), fault.KubeletUnhealthy, "refused")
	wantFault(t, NewHealth("http://[broken").Check(t.Context()), fault.KubeletUnhealthy, "cannot ask")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := NewHealth(server.URL).Check(ctx); !errors.Is(err, context.Canceled) || fault.ReasonOf(err) != "" {
		t.Errorf("cancelled: %v", err)
	}
}

func TestHealthIgnoresTheProxyOfTheEnvironment(t *testing.T) {
	proxied := false
	proxy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { proxied = true }))
	defer proxy.Close()
	t.Setenv("HTTP_PROXY", proxy.URL)
	t.Setenv("http_proxy", proxy.URL)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_ = NewHealth("http://192.0.2.1:1/healthz").Check(ctx)
	if proxied || NewHealth("http://x").Client.Transport.(*http.Transport).Proxy != nil {
		t.Error("a proxy was asked")
	}
}
