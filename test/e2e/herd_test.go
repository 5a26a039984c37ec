//go:build e2e

package e2e

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/herd/crowd"
)

const (
	herdSize = 60
	// requestsAJoin is what a join may ask of the API server at most when nobody is
	// refused: the eight of a quick one, and one for whether the request will be
	// approved by itself, which those ask that wait longer than 3 s.
	requestsAJoin = 9
	// crowdedLevel leaves the level of anonymous reads and tokens next to nothing.
	crowdedLevel = `{"spec":{"limited":{"nominalConcurrencyShares":1,"lendablePercent":0,"borrowingLimitPercent":0,` +
		`"limitResponse":{"type":"Queue","queuing":{"queues":1,"handSize":1,"queueLengthLimit":2}}}}}`
)

// F51: sixty machines with one token begin at the same moment. Every one joins,
// with no more requests than a single one needs; the API server refuses nobody, or
// whoever it refuses comes back as it asks. `make herd` does it with 500 and more,
// and takes the times.
func TestSixtyMachinesThatJoinAtOnceAllJoinWithFewRequests(t *testing.T) {
	ctx := scenario(t, 4*time.Minute)
	c := ownCluster(t, cluster.Options{})
	// What shows that the manifest is one that the API server takes and uses.
	if _, err := c.Kubectl(ctx, "apply", "-f", repositoryPath(t, "packaging/cluster/join-flow.yaml")); err != nil {
		t.Fatal(err)
	}

	t.Run("with a level of their own", func(t *testing.T) {
		joins, server := herd(t, ctx, c, "with-level")
		for _, j := range joins {
			reads := min(int64(j.Backstops), 3) // beside the watch, on a host where it takes minutes
			if j.Requests > requestsAJoin+reads || j.Reads != 1 || j.Handshakes > 3 {
				t.Errorf("%s: %d requests (%d of them beside the watch), %d anonymous reads, %d handshakes", j.Name, j.Requests, j.Backstops, j.Reads, j.Handshakes)
			}
		}
		if server.Answers["429"] > 0 {
			t.Errorf("%.0f requests were refused: %v", server.Answers["429"], server.Rejected)
		}
		for _, schema := range []string{"bootstrap-agent-cluster-info", "bootstrap-agent-certificates"} {
			if w := server.Waits[schema]; w.Requests < herdSize {
				t.Errorf("%s took %.0f requests", schema, w.Requests)
			}
		}
	})

	t.Run("at a level where next to nobody may wait", func(t *testing.T) {
		if _, err := c.Kubectl(ctx, "patch", "prioritylevelconfiguration", "bootstrap-agent-joins", "--type=merge", "--patch", crowdedLevel); err != nil {
			t.Fatal(err)
		}
		joins, server := herd(t, ctx, c, "crowded")
		if server.Answers["429"] == 0 {
			t.Error("nobody was refused: this shows nothing")
		}
		retries := 0
		for _, j := range joins {
			retries += int(max(0, j.Requests-requestsAJoin-int64(j.Backstops)))
		}
		t.Logf("%.0f answers 429, %d requests beyond %d a join", server.Answers["429"], retries, requestsAJoin)
		// Each 429 costs the one request that is made again, not a volley.
		if most := 2*int(server.Answers["429"]) + herdSize; retries > most {
			t.Errorf("%d requests more than without a 429, of which there were %.0f", retries, server.Answers["429"])
		}
	})
}

// herd lets the machines join and returns how each fared.
func herd(t *testing.T, ctx context.Context, c *cluster.Cluster, prefix string) ([]crowd.Join, crowd.Server) {
	t.Helper()
	token := newToken(t, ctx, c)
	if err := c.AwaitSignature(ctx, token); err != nil {
		t.Fatal(err)
	}
	before, err := crowd.Look(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	joining, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	joins, err := crowd.Run(joining, c, crowd.Options{Prefix: prefix, Tokens: []cluster.Token{token}, Joins: herdSize, Folder: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if err := crowd.Failed(joins); err != nil {
		t.Fatal(err)
	}
	after, err := crowd.Look(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	// Every certificate is one request's: nobody asked twice.
	csrs, err := c.CSRs(ctx)
	if err != nil {
		t.Fatal(err)
	}
	made := 0
	for i := range csrs {
		if cluster.ByToken(token.ID)(&csrs[i]) {
			made++
		}
	}
	if made != herdSize {
		t.Errorf("%d requests for %d certificates", made, herdSize)
	}
	return joins, after.Since(before)
}

func repositoryPath(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("../..", name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	return path
}
