package main

import (
	"context"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/test/floor"
)

// floor takes the time that this cluster on this host needs from cluster-info to
// the certificate when the client does nothing for safety.
func (b *bench) floor(ctx context.Context, name string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	t, err := floor.Take(ctx, floor.Options{Endpoint: b.cluster.Endpoint(), Token: b.token.String(), Name: name})
	return t.Certificate, err
}
