package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
)

// whyAnew begins a fault of a re-join with what has become of the node's identity:
// whoever reads that a token is missing on a node that ran for a year wants to know
// what for.
func (a *Agent) whyAnew(phase Phase, o Observation, err error) error {
	if err == nil || a.manifest.Started.IsZero() || phase != Discovering && phase != RequestingCertificate {
		return err
	}
	what := ""
	switch o.Pair {
	case PairMissing:
		what = "is gone"
	case PairDamaged:
		what = "is damaged"
	case PairOtherName:
		what = "is that of another name"
	case PairExpired:
		what = "has expired"
		if c := a.status.Certificate; c != nil {
			what += " at " + c.NotAfter.Format(time.RFC3339)
		}
	case PairRejected:
		what = "is refused by the API server"
	case PairVanishing, PairUsable:
		return err
	}
	return fmt.Errorf("this node's certificate %s, it needs a new one: %w", what, err)
}

// keepState makes the state folder again where it was wiped under the agent: the
// lock, and the records as they are in memory, without which the node's own files
// would look like somebody else's. Where the sandbox does not allow that (the
// folder itself is gone, and with it the mount), only systemd can: the error ends
// this run, and the next one finds the folder.
func (a *Agent) keepState() error {
	if _, err := os.Lstat(a.cfg.Paths.LockFile()); !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	held, err := record.Acquire(a.cfg.Paths)
	if err != nil {
		return fmt.Errorf("the state folder was removed and cannot be made again by this process: %w", err)
	}
	a.held.Release()
	a.held = held
	a.log.WithField("path", a.cfg.Paths.State).Warn("the state folder was wiped, the records are written again")
	if a.trust != nil {
		err = a.trust.Write(a.cfg.Paths)
	}
	if len(a.manifest.Files) > 0 {
		err = errors.Join(err, a.manifest.Write(a.cfg.Paths))
	}
	return err
}
