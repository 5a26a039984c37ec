package agent

import (
	"fmt"

	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
)

// spentToken is what the loop remembers of the token file that is to go.
type spentToken struct {
	done bool      // it is gone, or holds a token that the join did not use
	left *Leftover // it could not be removed
}

// removeToken removes the token file once this machine is a node by the token in
// it (removeTokenAfterJoin). A file that holds another token stays: somebody has
// put it there for a join to come. What a credential or the config file itself
// holds cannot be taken away from here.
//
// It is gone from the folder, not from the disk: a token is spent when it has
// expired or is deleted in the cluster.
func (a *Agent) removeToken() {
	if a.cfg.RemoveToken == "" || a.memory.spent.done || a.trust == nil || a.cfg.AfterJoin == AfterJoinObserve {
		return
	}
	token, err := TokenFile(a.cfg.RemoveToken).Read()
	if err != nil || token.ID() != a.trust.TokenID {
		a.memory.spent = spentToken{done: true}
		return
	}
	if err := atomicfile.Remove(a.cfg.RemoveToken); err != nil {
		if a.memory.spent.left == nil {
			a.log.WithError(err).Warn("the token file cannot be removed")
		}
		a.memory.spent.left = &Leftover{a.cfg.RemoveToken, fmt.Sprintf("rm %s (removeTokenAfterJoin is set, but the agent may not write there)", a.cfg.RemoveToken)}
		return
	}
	a.log.WithField("path", a.cfg.RemoveToken).Info("token file removed: the machine has joined")
	a.memory.spent = spentToken{done: true}
}
