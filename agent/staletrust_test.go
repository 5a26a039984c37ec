package agent

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
	"github.com/bootstrap-agent/bootstrap-agent/discovery"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
)

// Records from before a rotation of the CA (a folder that was restored from a
// backup) trust no CA that still serves. Never are old CAs put back into the
// kubelet's files, nor is a kubelet that works touched.
func TestRecordsFromBeforeARotationCostNoNode(t *testing.T) {
	for name, tc := range map[string]struct {
		manifest bool // is restored, too
		token    bool
		heals    bool
	}{
		"the trust record, without a token": {heals: true}, // by the kubelet's files
		"the trust record, with a token":    {token: true, heals: true},
		// Then ca.crt looks edited, and what a person has edited is not written over.
		"the state folder, without a token": {manifest: true},
		"the state folder, with a token":    {manifest: true, token: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, testapi.Options{Quiet: true})
			r.cfg.AfterJoin = AfterJoinHeal
			r.deps.Pace = Pace{APICheck: 2 * time.Minute, ChangeGap: 30 * time.Minute}
			_, stop := r.start()
			r.await("the join", phase(Joined))
			r.api.SetNodeReady(nodeName, true, "")
			backup := map[string]string{r.cfg.Paths.TrustFile(): r.read(r.cfg.Paths.TrustFile())}
			if tc.manifest {
				backup[r.cfg.Paths.ManifestFile()] = r.read(r.cfg.Paths.ManifestFile())
			}
			old := r.api.Pin()
			next := must(r.api.PrepareServingCA())
			r.await("both CAs", trusts(old, next))
			if err := r.api.SwitchServingCA(); err != nil {
				t.Fatal(err)
			}
			r.api.SignClientsWithServingCA()
			r.api.DropRetiredCAs()
			r.await("the new CA alone, and a pair of it", func(s Status) bool { return trusts(next)(s) && r.signedNow() })
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			for path, data := range backup {
				if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if id, _, _ := strings.Cut(r.api.Token(), "."); !tc.token {
				r.api.DeleteToken(id)
			}
			r.cfg.Pins = must(discovery.ParsePins([]string{old, next}))
			ca, kubeconfig, calls := r.read(r.files().CACert()), r.read(r.files().Kubeconfig()), len(r.units.Calls())
			r.mu.Lock()
			r.statuses = nil
			r.mu.Unlock()

			_, stop = r.start()
			if tc.heals {
				r.await("the new CA in the record", trusts(next))
			} else {
				s := r.await("the reason", func(s Status) bool { return s.Reason == fault.ServerCertificateInvalid })
				if !strings.Contains(s.Hint, "token set") || !drifted(r.files().CACert())(s) {
					t.Errorf("%s -> %s, %+v", s.Message, s.Hint, s.Notes)
				}
			}
			r.awaitLater(15 * time.Minute)
			if err := stop(); err != nil {
				t.Error(err)
			}
			if r.read(r.files().CACert()) != ca || r.read(r.files().Kubeconfig()) != kubeconfig {
				t.Error("the kubelet's files were replaced")
			}
			if got := r.units.Calls()[calls:]; len(got) > 0 {
				t.Errorf("the unit was touched: %v", got)
			}
			trust := must(record.ReadTrust(r.cfg.Paths))
			if healed := trust.CA == ca; healed != tc.heals || trust.NodeUID == "" {
				t.Errorf("healed: %t, %+v", healed, trust)
			}
		})
	}
}
