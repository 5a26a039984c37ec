// Package floor is a client that does nothing for safety: it takes the time that
// a cluster on this host needs from cluster-info to the certificate when nobody
// is verified, no signature is checked, nothing is kept, nothing is tried again
// and everything goes over one connection. No join can be faster than that and
// the kubelet's own start.
//
// It is a figure to stand beside others, never a way to join anything: what it
// gets it throws away.
//
//	Options --Take--> Times{Discovery, Certificate}
package floor

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Options say whom the client asks, and as whom.
type Options struct {
	Endpoint string // host:port
	Token    string // id.secret
	Name     string // of the node; also that of the request
}

// Times is how long it took, from the first dial on.
type Times struct {
	Discovery   time.Duration // until cluster-info was read
	Certificate time.Duration // until the certificate was seen
}

// Take takes the time once. It makes three requests over one connection; the
// first answer that is no success ends it.
func Take(ctx context.Context, o Options) (t Times, err error) {
	transport := &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, // that is the point of this figure
		ForceAttemptHTTP2: true,
	}
	defer transport.CloseIdleConnections()
	c := client{&http.Client{Transport: transport}, o}
	began := time.Now()
	info, err := c.plain(ctx, false, http.MethodGet, "/api/v1/namespaces/kube-public/configmaps/cluster-info", nil)
	if err != nil {
		return t, err
	}
	_ = info.Close()
	t.Discovery = time.Since(began)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return t, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "system:node:" + o.Name, Organization: []string{"system:nodes"}},
	}, key)
	if err != nil {
		return t, err
	}
	const csrs = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
	created, err := c.plain(ctx, true, http.MethodPost, csrs, map[string]any{
		"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": map[string]string{"name": o.Name},
		"spec": map[string]any{
			"request":    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
			"signerName": "kubernetes.io/kube-apiserver-client-kubelet", "usages": []string{"digital signature", "client auth"},
		},
	})
	if err != nil {
		return t, err
	}
	_ = created.Close()
	events, err := c.plain(ctx, true, http.MethodGet, csrs+"?watch=1&fieldSelector=metadata.name%3D"+o.Name, nil)
	if err != nil {
		return t, err
	}
	defer func() { _ = events.Close() }()
	for lines := bufio.NewScanner(events); lines.Scan(); {
		var event struct {
			Object struct {
				Status struct{ Certificate []byte }
			}
		}
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			return t, err
		}
		if len(event.Object.Status.Certificate) > 0 {
			t.Certificate = time.Since(began)
			return t, nil
		}
	}
	return t, errors.Join(errors.New("the watch of the floor ended without a certificate"), ctx.Err())
}

type client struct {
	http *http.Client
	Options
}

// plain sends one request, with the bootstrap token or without: a token may not
// read cluster-info, only nobody may.
func (c client) plain(ctx context.Context, withToken bool, method, path string, body any) (io.ReadCloser, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, "https://"+c.Endpoint+path, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	if body == nil {
		req.Body = nil
	}
	if withToken {
		req.Header.Set("Authorization", "Bearer "+c.Token)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 300 {
		return nil, errors.Join(fmt.Errorf("%s %s: %s", method, path, resp.Status), resp.Body.Close())
	}
	return resp.Body, nil
}
