package main

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"slices"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/cmd/bootstrap-agent/view"
	"github.com/bootstrap-agent/bootstrap-agent/discovery"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet/preflight"
)

// checkMachine looks at this machine: rows, and the exit code of the first one
// that failed.
func (a *app) checkMachine(ctx context.Context, l *loader, f checkFlags) error {
	cfg, configRow, err := a.machineToCheck(l)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	w := a.wire(cfg, silence())
	defer w.close()
	host, _ := a.hostname() // without one its row says so
	d := &discovery.Discoverer{Log: silence(), UserAgent: userAgent()}
	input := agent.PreflightInput{Hostname: host, Environ: a.environ, Greet: d.Greet, Lookup: a.lookup()}
	if f.offline {
		input.Greet, input.Lookup = nil, nil
	}
	rows := agent.Preflight(ctx, cfg, w.deps, input)
	for i, row := range rows {
		if f.offline && (row.Name == "API server" || row.Name == "clock") {
			rows[i] = preflight.NotSeen(row.Name, "nobody was asked: that is the network")
		}
	}
	rows = append([]*preflight.Row{configRow}, rows...)
	if f.output == "json" {
		err = a.printJSON(machineDocument(rows))
	} else {
		err = a.print(view.Machine(rows, a.style(a.stdout)))
	}
	if err != nil {
		return err
	}
	if failed := preflight.FirstFailed(rows); failed != nil {
		entry, _ := fault.Lookup(failed.Reason)
		return &exitError{entry.Exit} // the rows have said it all
	}
	return nil
}

// lookup resolves host names; tests have their own.
func (a *app) lookup() preflight.Lookup {
	if a.resolve != nil {
		return a.resolve
	}
	return net.DefaultResolver.LookupNetIP
}

// machineToCheck takes the config as far as it is there and may be read: a
// machine is looked at before it has one, too. What flags say counts in any
// case. The row tells what was taken.
func (a *app) machineToCheck(l *loader) (agent.Config, *preflight.Row, error) {
	const name = "config"
	good, err := l.load()
	if err == nil {
		return good.agent, preflight.Of(name, l.file, nil), nil
	}
	row := preflight.Of(name, "", err)
	_, statErr := os.Stat(l.file)
	switch {
	case errors.Is(err, fs.ErrPermission):
		row.Message = "only root may read " + l.file + "; defaults are taken for what it says"
	case errors.Is(statErr, fs.ErrNotExist) && !l.named:
		row = preflight.NotSeen(name, "there is no "+l.file+" yet; defaults are taken")
	case errors.Is(statErr, fs.ErrNotExist):
		return agent.Config{}, row, err
	}
	merged, problems, _ := l.merge(configFile{})
	if len(problems) > 0 {
		return agent.Config{}, row, configFault(problems, false, l.file)
	}
	j := &judge{app: a, settings: merged, broken: map[string]bool{}}
	cfg := j.config()
	// Nothing but flags and variables can be wrong here; that something is missing
	// is no matter of the machine.
	wrong := slices.DeleteFunc(j.problems, func(p problem) bool { return p.at.from != fromFlag && p.at.from != fromEnvironment })
	if len(wrong) > 0 {
		return agent.Config{}, row, configFault(wrong, false, l.file)
	}
	return cfg, row, nil
}

// machineDocument is the report for `-o json`. Fields are only ever added.
func machineDocument(rows []*preflight.Row) any {
	type document struct {
		OK       bool             `json:"ok"`
		Reason   fault.Reason     `json:"reason,omitempty"` // of the first row that failed
		Failed   int              `json:"failed"`
		Warnings int              `json:"warnings"`
		Skipped  int              `json:"skipped"`
		Rows     []*preflight.Row `json:"rows"`
	}
	out := document{Rows: rows}
	for _, r := range rows {
		switch r.Verdict {
		case preflight.Fail:
			out.Failed++
		case preflight.Warn:
			out.Warnings++
		case preflight.Skip:
			out.Skipped++
		}
	}
	first := preflight.FirstFailed(rows)
	if out.OK = first == nil; !out.OK {
		out.Reason = first.Reason
	}
	return out
}
