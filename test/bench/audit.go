package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

// auditPolicy: only those whom a joining machine is to the API server.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, userGroups: ["system:masters", "system:serviceaccounts"]}
- {level: Metadata, userGroups: ["system:nodes", "system:bootstrappers", "system:unauthenticated"]}
- {level: None}
`

// auditFlags are the API server's, for an audit log in dir. It is written in
// batches, beside the requests, so that nobody waits for it.
func auditFlags(dir string) ([]string, error) {
	policy := filepath.Join(dir, "policy.yaml")
	if err := os.WriteFile(policy, []byte(auditPolicy), 0o600); err != nil {
		return nil, err
	}
	return []string{
		"--audit-policy-file=" + policy, "--audit-log-path=" + filepath.Join(dir, "audit.log"),
		"--audit-log-mode=batch", "--audit-log-batch-max-wait=1s",
	}, nil
}

// auditEvent is what of an event is looked at.
type auditEvent struct {
	AuditID                  string
	Verb                     string
	UserAgent                string
	SourceIPs                []string
	RequestReceivedTimestamp time.Time
	ObjectRef                struct{ Resource, Subresource string }
}

// readAudit counts the agent's requests of this machine from its start until it had
// joined, and in the window.
func (r *upkeep) readAudit(b *bench, m *machine.Machine, began, joined time.Time) error {
	f, err := os.Open(filepath.Join(b.scratch, "audit.log"))
	if err != nil {
		return err
	}
	defer f.Close()
	var all []auditEvent
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var event auditEvent
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			return err
		}
		// Machines before this one had its address, and their agents its name.
		if !event.RequestReceivedTimestamp.Before(began) && slices.Contains(event.SourceIPs, m.Address) && strings.HasPrefix(event.UserAgent, "bootstrap-agent") {
			all = append(all, event)
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	r.joinRequests, r.requests = countRequests(all, joined, joined.Add(r.settle), joined.Add(r.settle+r.window))
	if len(r.joinRequests) == 0 {
		return errors.New("the audit log has no request of the agent")
	}
	return nil
}

// countRequests names the requests before joined, and counts those from one time
// to another. A watch is two events of one request.
func countRequests(events []auditEvent, joined, from, to time.Time) (join []string, later int) {
	known := map[string]bool{}
	for _, event := range events {
		if known[event.AuditID] {
			continue
		}
		known[event.AuditID] = true
		at := event.RequestReceivedTimestamp
		switch {
		case at.Before(joined):
			name := event.Verb + " " + event.ObjectRef.Resource
			if event.ObjectRef.Subresource != "" {
				name += "/" + event.ObjectRef.Subresource
			}
			join = append(join, name)
		case !at.Before(from) && at.Before(to):
			later++
		}
	}
	return join, later
}
