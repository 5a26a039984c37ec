package agent

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// joined is the observation of a healthy node; each case breaks one thing.
func joined() Observation {
	return Observation{
		Pair: PairUsable, Trust: true,
		Unit:    Unit{Installed: true, Started: true, Active: true},
		Healthy: true, LeaseRenewed: true,
		Node: Node{Known: true, Ready: true},
	}
}

func TestNextPhase(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Observation)
		want   Phase
	}{
		"a healthy node is joined":                              {func(*Observation) {}, Joined},
		"an empty machine discovers":                            {func(o *Observation) { *o = Observation{Pair: PairMissing} }, Discovering},
		"a trusted cluster and no pair: request":                {func(o *Observation) { *o = Observation{Pair: PairMissing, Trust: true} }, RequestingCertificate},
		"a new pair is checked before anything else":            {func(o *Observation) { o.NewPair = true; o.Pair = PairMissing; o.Trust = false }, CheckingName},
		"a new pair is checked even beside a usable one":        {func(o *Observation) { o.NewPair = true }, CheckingName},
		"a copy of another machine's disk is no node":           {func(o *Observation) { o.Copied = "x" }, Discovering},
		"a copy does not use the pair that waited":              {func(o *Observation) { o.Copied, o.NewPair = "x", true }, Discovering},
		"an expired pair is replaced":                           {func(o *Observation) { o.Pair = PairExpired }, RequestingCertificate},
		"an expired pair without trust: discover":               {func(o *Observation) { o.Pair = PairExpired; o.Trust = false }, Discovering},
		"a damaged pair is replaced":                            {func(o *Observation) { o.Pair = PairDamaged }, RequestingCertificate},
		"a pair of another name is replaced":                    {func(o *Observation) { o.Pair = PairOtherName }, RequestingCertificate},
		"a pair that the API refuses is replaced":               {func(o *Observation) { o.Pair = PairRejected }, RequestingCertificate},
		"a rotation under way is left alone":                    {func(o *Observation) { o.Pair = PairVanishing }, Joined},
		"a rotation under way on an unhealthy node":             {func(o *Observation) { o.Pair = PairVanishing; o.Healthy = false }, Registering},
		"a usable pair needs no trust":                          {func(o *Observation) { o.Trust = false }, Joined},
		"a missing kubeconfig is written":                       {func(o *Observation) { o.Files.Damaged = []string{"kubeconfig"} }, ConfiguringKubelet},
		"damaged files come before the unit":                    {func(o *Observation) { o.Files.Damaged = []string{"ca.crt"}; o.Unit = Unit{} }, ConfiguringKubelet},
		"an edited file is only reported":                       {func(o *Observation) { o.Files.Drifted = []string{"config.yaml"} }, Joined},
		"no unit: install and start":                            {func(o *Observation) { o.Unit = Unit{} }, StartingKubelet},
		"our drop-in is gone":                                   {func(o *Observation) { o.Unit.Installed = false }, StartingKubelet},
		"not started in this boot":                              {func(o *Observation) { o.Unit.Started, o.Unit.Active = false, false }, StartingKubelet},
		"systemd has given up":                                  {func(o *Observation) { o.Unit.Failed, o.Unit.Active = true, false }, StartingKubelet},
		"older than its inputs":                                 {func(o *Observation) { o.Unit.Older = true }, StartingKubelet},
		"stopped by a person stays stopped":                     {func(o *Observation) { o.Unit.HeldBack = "stopped"; o.Unit.Active, o.Healthy = false, false }, Registering},
		"stopped by a person, older than its inputs":            {func(o *Observation) { o.Unit.HeldBack, o.Unit.Older = "stopped", true; o.Unit.Active = false }, Registering},
		"disabled by a person and not started since the reboot": {func(o *Observation) { o.Unit.HeldBack, o.Unit.Started, o.Unit.Active = "disabled", false, false }, Registering},
		"disabled, but running and healthy":                     {func(o *Observation) { o.Unit.HeldBack = "disabled" }, Joined},
		"systemd is about to restart a crashed kubelet":         {func(o *Observation) { o.Unit.Active = false }, Registering},
		"not healthy":                                           {func(o *Observation) { o.Healthy = false }, Registering},
		"its lease stands still":                                {func(o *Observation) { o.LeaseRenewed = false }, Registering},
		"a deleted Node is only reported":                       {func(o *Observation) { o.Node.Deleted = true }, Joined},
		"a Node that is not Ready is joined all the same":       {func(o *Observation) { o.Node.Ready = false; o.Node.NotReady = "cni" }, Joined},
		"a bad config file does not move a joined node":         {func(o *Observation) { o.ConfigError = errors.New("x") }, Joined},
		"a CA on offer does not move a joined node":             {func(o *Observation) { o.Change.CAAdded = []string{"sha256:x"} }, Joined},
		"an overdue renewal does not move a running node":       {func(o *Observation) { o.Renewal.Overdue = true }, Joined},
		"an edited unit is only reported":                       {func(o *Observation) { o.Unit.Drifted = []string{"kubelet.service"} }, Joined},
		"a usable pair, damaged config and a kubelet held back": {func(o *Observation) { o.Unit.HeldBack = "masked"; o.Files.Damaged = []string{"config.yaml"} }, ConfiguringKubelet},
		"missing pair, a trusted cluster, a kubelet held back":  {func(o *Observation) { o.Unit.HeldBack = "stopped"; o.Pair = PairMissing }, RequestingCertificate},
	} {
		t.Run(name, func(t *testing.T) {
			o := joined()
			tc.change(&o)
			if got := nextPhase(o); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

func TestNotesOf(t *testing.T) {
	if notes := notesOf(joined()); len(notes) != 0 {
		t.Errorf("a healthy node has notes: %v", notes)
	}
	o := joined()
	o.ConfigError = errors.New("x")
	o.Unit.HeldBack = "stopped"
	o.Node = Node{Known: true, Deleted: true}
	o.Renewal = Renewal{NotAutomatic: true, Overdue: true, NotAfter: time.Unix(0, 0)}
	o.Serving = Serving{Missing: true, Request: &pendingAsked{}, OtherCAs: []string{`"CN=x"`}}
	o.Change.CAAdded = []string{"sha256:a"}
	o.Change.Server = "https://10.0.0.9:6443"
	o.CARefreshClosed = true
	o.Files.Drifted = []string{"config.yaml"}
	o.Unit.Drifted = []string{"kubelet.service"}
	var got []fault.Reason
	for _, n := range notesOf(o) {
		got = append(got, n.Reason)
		if n.Message == "" || n.Hint == "" {
			t.Errorf("%s says nothing", n.Reason)
		}
	}
	want := []fault.Reason{fault.ConfigInvalid, fault.KubeletStopped, fault.NodeDeleted, fault.RenewalNotAutomatic, fault.RenewalOverdue,
		fault.ClientCAMissing, fault.ServingCertificatePending, fault.CAOffered, fault.ServerOffered, fault.CARefreshUnavailable, fault.Drifted, fault.Drifted}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	o = joined()
	o.Node = Node{Known: true, NotReady: "cni plugin not initialized"}
	if notes := notesOf(o); len(notes) != 1 || notes[0].Reason != fault.NodeNotReady {
		t.Errorf("got %v", notes)
	}
}

func TestANodeThatIsNotReadyIsHelpedByTheKubeletsOwnWord(t *testing.T) {
	for message, want := range map[string]string{
		"container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:cni plugin not initialized": "CNI",
		`[container runtime network not ready: cni plugin not initialized, CSINode is not yet initialized]`:                       "CNI",
		"CSINode is not yet initialized":                               "within seconds",
		"[container runtime is down, PLEG is not healthy: pleg has]":   "systemctl status containerd",
		"PLEG is not healthy: pleg was last seen active 3m0s ago":      "crictl ps",
		"Kubelet stopped posting node status.":                         "systemctl status kubelet",
		"something that nobody has heard of, the usual cause is named": "CNI",
	} {
		o := joined()
		o.Node = Node{Known: true, NotReady: message}
		if notes := notesOf(o); len(notes) != 1 || !strings.Contains(notes[0].Hint, want) {
			t.Errorf("%s: %+v", message, notes)
		}
	}
}
