package systemd

import (
	"context"
	"fmt"
)

// Reach starts a target and returns as soon as the job is queued: what belongs
// to the target may take hours, and is none of the caller's business. there is
// false where the target is not installed, or masked: somebody decided so.
//
// One that is reached, was reached before in this boot, or is on its way, is left
// alone: to start it again would also start again whatever it wants and a person
// has stopped meanwhile. The job gives way to others (mode "fail"): it never
// cancels a shutdown.
func (m *Manager) Reach(ctx context.Context, target string) (there bool, err error) {
	err = m.call(ctx, callTimeout, func(ctx context.Context, c *conn) error {
		props, err := c.GetUnitPropertiesContext(ctx, target)
		if err != nil {
			return err
		}
		u := unitOf(target, props)
		if there = u.Exists() && !u.Masked(); !there || u.ActiveState != "inactive" || u.WasActive() || u.Job != 0 {
			return nil
		}
		m.opts.Log.WithField("command", "systemctl start --no-block "+target).Debug("target started")
		_, err = c.StartUnitContext(ctx, target, "fail", nil)
		return err
	})
	if err != nil {
		return there, fmt.Errorf("cannot start %s: %w", target, err)
	}
	return there, nil
}
