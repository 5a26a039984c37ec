package apiclient

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"k8s.io/client-go/rest"
)

// versionTimeout bounds a question that nothing depends on.
const versionTimeout = 10 * time.Second

// ServerVersion asks the server for its gitVersion, as in v1.36.3.
func (c *Client) ServerVersion(ctx context.Context) (string, error) {
	note := &call{}
	limited, cancel := context.WithTimeout(noted(ctx, note), versionTimeout)
	defer cancel()
	const what = "cannot read the server's version"
	body, err := c.core.Get().AbsPath("/version").MaxRetries(0).WarningHandlerWithContext(rest.NoWarnings{}).Do(limited).Raw()
	if err != nil {
		return "", c.explain(ctx, err, note, what)
	}
	var info struct {
		GitVersion string `json:"gitVersion"`
	}
	if err := json.Unmarshal(body, &info); err != nil || info.GitVersion == "" {
		return "", errors.New(what + ": the answer names none")
	}
	return info.GitVersion, nil
}
