package main

import (
	"context"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/discovery"
	"github.com/bootstrap-agent/bootstrap-agent/internal/apiclient"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

// wiring is the real rooms put together for one run of the agent.
type wiring struct {
	deps  agent.Deps
	units *systemd.Manager
	now   func() time.Time          // the clock that certificates are judged by
	proxy atomic.Pointer[proxyFunc] // of the config in use
}

// laboratory changes clock and pace in a build with the tag `lab`, which is made
// for tests on machines and never packaged. Nil in every other build.
var laboratory func(*agent.Deps)

type proxyFunc func(*url.URL) (*url.URL, error)

// wire connects the rooms. Nothing is dialled yet.
func (a *app) wire(cfg agent.Config, log *logrus.Logger) *wiring {
	spendMemory()
	who := agent.ReadMachine("/", a.getenv("SYSTEMD_BOOT_ID"))
	w := &wiring{units: systemd.NewManager(systemd.Options{Log: log, BootID: who.BootID})}
	w.use(cfg)
	notify, err := systemd.NotifierFromEnv()
	if err != nil {
		log.WithError(err).Warn("the watchdog is not fed")
	}
	w.deps = agent.Deps{
		Connect: w.connect,
		Units:   w.units,
		Notify:  notify,
		Health: func(ctx context.Context, url string) error {
			return kubelet.NewHealth(url).Check(ctx)
		},
		Host: agent.Host{
			Host:     kubelet.Host{},
			Binaries: kubelet.BinaryPaths(),
			Runtimes: kubelet.Runtimes(),
		},
		Machine: who,
		Clock:   agent.SystemClock{},
		Log:     log,
		AtRest:  func() { giveMemoryBack(log) },
		Version: buildInfo().Version,
	}
	if laboratory != nil {
		laboratory(&w.deps)
	}
	w.now = w.deps.Clock.Now
	w.deps.Discoverer = &discovery.Discoverer{Log: log, UserAgent: userAgent(), Now: w.now}
	if a.adapt != nil {
		a.adapt(&w.deps)
	}
	return w
}

// use takes what the rooms themselves need from a config that was read anew.
func (w *wiring) use(cfg agent.Config) {
	proxy := proxyFunc(cfg.Proxy)
	w.proxy.Store(&proxy)
}

func (w *wiring) close() { w.units.Close() }

// connect makes a client of one identity with a transport of its own.
func (w *wiring) connect(who agent.Identity) (agent.API, error) {
	options := apiclient.Options{
		Server: who.Server, CA: who.CA, Bearer: who.Bearer,
		CertPEM: who.Pair, KeyPEM: who.Pair, UserAgent: userAgent(), Now: w.now,
	}
	if proxy := *w.proxy.Load(); proxy != nil {
		options.Proxy = func(r *http.Request) (*url.URL, error) { return proxy(r.URL) }
	}
	return apiclient.New(options)
}

// logFormatter chooses how a log line looks: under the journal with a priority
// and without a time, which the journal knows itself.
func (a *app) logFormatter(format string) logrus.Formatter {
	journal := systemd.StderrIsJournal()
	var next logrus.Formatter
	if format == "json" {
		next = &logrus.JSONFormatter{DisableTimestamp: journal}
	}
	switch {
	case journal:
		return &systemd.JournalFormatter{Next: next}
	case next == nil:
		_, tty := terminal(a.stderr)
		next = &logrus.TextFormatter{FullTimestamp: true, DisableColors: !tty || a.getenv("NO_COLOR") != ""}
	}
	return &systemd.PlainFormatter{Next: next}
}
