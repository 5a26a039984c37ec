package main

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

// floor takes the time that this cluster on this host needs from cluster-info to
// the certificate when the client does nothing for safety: it verifies nobody,
// checks no signature, keeps nothing, and does all on one connection. No join
// can be faster than that and the kubelet's own start.
func (b *bench) floor(ctx context.Context, name string) (took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	transport := &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, // that is the point of this figure
		ForceAttemptHTTP2: true,
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	began := time.Now()
	info, err := b.plain(ctx, client, "", http.MethodGet, "/api/v1/namespaces/kube-public/configmaps/cluster-info", nil)
	if err != nil {
		return 0, err
	}
	_ = info.Close()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return 0, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "system:node:" + name, Organization: []string{"system:nodes"}},
	}, key)
	if err != nil {
		return 0, err
	}
	const csrs = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
	created, err := b.plain(ctx, client, b.token.String(), http.MethodPost, csrs, map[string]any{
		"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": map[string]string{"name": name},
		"spec": map[string]any{
			"request":    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
			"signerName": "kubernetes.io/kube-apiserver-client-kubelet", "usages": []string{"digital signature", "client auth"},
		},
	})
	if err != nil {
		return 0, err
	}
	_ = created.Close()
	events, err := b.plain(ctx, client, b.token.String(), http.MethodGet, csrs+"?watch=1&fieldSelector=metadata.name%3D"+name, nil)
	if err != nil {
		return 0, err
	}
	defer func() { _ = events.Close() }()
	for lines := bufio.NewScanner(events); lines.Scan(); {
		var event struct {
			Object struct {
				Status struct{ Certificate []byte }
			}
		}
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			return 0, err
		}
		if len(event.Object.Status.Certificate) > 0 {
			return time.Since(began), nil
		}
	}
	return 0, errors.Join(errors.New("the watch of the floor ended without a certificate"), ctx.Err())
}

// plain sends one request, with the bootstrap token or without: a token may not
// read cluster-info, only nobody may.
func (b *bench) plain(ctx context.Context, client *http.Client, token, method, path string, body any) (io.ReadCloser, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, "https://"+b.cluster.Endpoint()+path, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	if body == nil {
		req.Body = nil
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 300 {
		return nil, errors.Join(fmt.Errorf("%s %s: %s", method, path, resp.Status), resp.Body.Close())
	}
	return resp.Body, nil
}
