package crowd

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster/await"
	"github.com/bootstrap-agent/bootstrap-agent/test/floor"
)

// Bare is a crowd of clients without any safety (package floor), all at once.
// Those that failed are counted: nothing tries again for them.
func Bare(ctx context.Context, c *cluster.Cluster, o Options) (times []floor.Times, failed error) {
	all := make([]floor.Times, o.Joins)
	errs := make([]error, o.Joins)
	gate := make(chan struct{})
	var wait sync.WaitGroup
	for i := range all {
		wait.Go(func() {
			<-gate
			all[i], errs[i] = floor.Take(ctx, floor.Options{
				Endpoint: c.Endpoint(), Token: o.Tokens[i%len(o.Tokens)].String(), Name: fmt.Sprintf("%s-%d", o.Prefix, i),
			})
		})
	}
	close(gate)
	wait.Wait()
	for i, err := range errs {
		if err == nil {
			times = append(times, all[i])
		}
	}
	return times, errors.Join(errs...)
}

// Signing is how the controller-manager dealt with requests that an
// administrator made as fast as the API server took them.
type Signing struct {
	Requests int
	Made     time.Duration // until the last of them was made
	Issued   time.Duration // until the last certificate was there, from the same begin
}

// Rate is certificates a second.
func (s Signing) Rate() float64 { return float64(s.Requests) / s.Issued.Seconds() }

// Sign makes n requests as fast as it can and awaits all certificates.
func Sign(ctx context.Context, c *cluster.Cluster, prefix string, n int) (s Signing, err error) {
	requests := make([]*certificatesv1.CertificateSigningRequest, n)
	for i := range requests {
		if requests[i], err = nodeRequest(fmt.Sprintf("%s-%d", prefix, i)); err != nil {
			return s, err
		}
	}
	s.Requests = n
	began := time.Now()
	errs := make([]error, n)
	var wait sync.WaitGroup
	turns := make(chan struct{}, 20)
	for i, r := range requests {
		wait.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			errs[i] = c.Do(ctx, http.MethodPost, "/apis/certificates.k8s.io/v1/certificatesigningrequests", r, nil)
		})
	}
	wait.Wait()
	if err := errors.Join(errs...); err != nil {
		return s, err
	}
	s.Made = time.Since(began)
	err = await.Until(ctx, "all certificates", 500*time.Millisecond, func(ctx context.Context) error {
		all, err := c.CSRs(ctx)
		if err != nil {
			return err
		}
		done := 0
		for i := range all {
			if strings.HasPrefix(all[i].Name, prefix+"-") && len(all[i].Status.Certificate) > 0 {
				done++
			}
		}
		if done < n {
			return fmt.Errorf("%d of %d", done, n)
		}
		return nil
	})
	s.Issued = time.Since(began)
	return s, err
}

// nodeRequest is one that the automatic approver passes.
func nodeRequest(name string) (*certificatesv1.CertificateSigningRequest, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "system:node:" + name, Organization: []string{"system:nodes"}},
	}, key)
	if err != nil {
		return nil, err
	}
	return &certificatesv1.CertificateSigningRequest{
		TypeMeta:   metav1.TypeMeta{APIVersion: "certificates.k8s.io/v1", Kind: "CertificateSigningRequest"},
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
			SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName,
			Usages:     []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
		},
	}, nil
}
