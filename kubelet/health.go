package kubelet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strconv"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// The kubelet's defaults for its health endpoint.
const (
	healthzAddress = "127.0.0.1"
	healthzPort    = 10248
)

// HealthURL returns the URL to ask, and false if the kubelet was told to have none
// (healthzPort: 0).
func (l Layers) HealthURL() (url string, enabled bool, err error) {
	host, port := healthzAddress, healthzPort
	err = l.documents(func(what string, doc document) error {
		if v, ok := doc["healthzBindAddress"].(string); ok && v != "" {
			host = v
		}
		if v, ok := doc["healthzPort"].(json.Number); ok {
			if port, err = strconv.Atoi(v.String()); err != nil {
				return fault.New(fault.ConfigInvalid, "%s: healthzPort: must be a whole number", what)
			}
		}
		return nil
	})
	if err != nil {
		return "", false, err
	}
	for _, arg := range l.Args {
		value, ok := cutFlag(arg)
		if !ok {
			continue
		}
		switch flagName(arg) {
		case "healthz-bind-address":
			host = value
		case "healthz-port":
			if port, err = strconv.Atoi(value); err != nil {
				return "", false, fault.New(fault.ConfigInvalid, "kubelet.extraArgs: --healthz-port: must be a whole number")
			}
		}
	}
	if port == 0 {
		return "", false, nil
	}
	if port < 0 || port > 65535 {
		return "", false, fault.New(fault.ConfigInvalid, "kubelet configuration: healthzPort %d: must be 0 to 65535", port)
	}
	if host != "localhost" {
		addr, err := netip.ParseAddr(host)
		switch {
		case err != nil || addr.Zone() != "":
			return "", false, fault.New(fault.ConfigInvalid, "kubelet configuration: healthzBindAddress %s: must be an IP address", fault.Quote(host))
		case addr.IsUnspecified() && addr.Is4():
			host = "127.0.0.1"
		case addr.IsUnspecified():
			host = "::1"
		}
	}
	return "http://" + net.JoinHostPort(host, strconv.Itoa(port)) + "/healthz", true, nil
}

// DropIns reads the *.conf files of a --config-dir in the order in which the
// kubelet merges them. A missing folder has none.
func DropIns(dir string) ([][]byte, error) {
	var out [][]byte
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			if path == dir && errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		if entry.IsDir() || filepath.Ext(entry.Name()) != ".conf" {
			return nil
		}
		real, err := filepath.EvalSymlinks(path)
		if err != nil {
			return err
		}
		data, err := atomicfile.Read(real, maxFile)
		if err != nil {
			return err
		}
		out = append(out, data)
		return nil
	})
	if err != nil {
		return nil, fault.New(fault.ConfigInvalid, "kubelet.configDir: cannot read %s: %w", dir, err)
	}
	return out, nil
}

// Health asks the kubelet how it is.
type Health struct {
	URL    string
	Client *http.Client
}

// healthTimeout bounds one question; the kubelet answers in milliseconds.
const healthTimeout = 5 * time.Second

// NewHealth makes a Health whose client uses no proxy, follows no redirect and
// keeps no connection: nothing of it survives a Check.
func NewHealth(url string) *Health {
	return &Health{URL: url, Client: &http.Client{
		Timeout:       healthTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext:       (&net.Dialer{Timeout: healthTimeout}).DialContext,
			DisableKeepAlives: true,
		},
	}}
}

// Check returns nil when the kubelet says ok, a KubeletUnhealthy fault when it
// says something else or nothing, and ctx's error when that ended it.
func (h *Health) Check(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.URL, http.NoBody)
	if err != nil {
		return fault.New(fault.KubeletUnhealthy, "cannot ask the kubelet at %s: %w", h.URL, err)
	}
	resp, err := h.Client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("cannot ask the kubelet at %s: %w", h.URL, ctx.Err())
		}
		return fault.New(fault.KubeletUnhealthy, "cannot ask the kubelet: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1024))
	if err != nil {
		return fault.New(fault.KubeletUnhealthy, "the kubelet's answer at %s broke off: %w", h.URL, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fault.New(fault.KubeletUnhealthy, "the kubelet at %s answers %d: %s", h.URL, resp.StatusCode, fault.Quote(string(body)))
	}
	return nil
}
