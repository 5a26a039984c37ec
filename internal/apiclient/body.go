package apiclient

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
)

// bounded is the answer's body with what it may cost.
func bounded(resp *http.Response, note *call) io.ReadCloser {
	if resp.StatusCode >= http.StatusBadRequest {
		// Its end is never looked at, and its code says the most: it is cut off.
		return &cutBody{Closer: resp.Body, Reader: io.LimitReader(resp.Body, maxErrorBytes)}
	}
	b := &limitedBody{ReadCloser: resp.Body, most: maxBodyBytes, marks: maxMarks}
	switch {
	case note.watch:
		b.most = maxWatchBytes
	case note.list:
		b.marks = maxListMarks
	}
	b.left, b.marksLeft = b.most, b.marks
	return b
}

// cutBody ends early, as if that were all.
type cutBody struct {
	io.Reader
	io.Closer
}

// limitedBody fails, and does not just end, where an answer gets too large, or
// would when it is decoded.
type limitedBody struct {
	io.ReadCloser
	most, left       int64 // bytes
	marks, marksLeft int   // what begins a value in JSON, wherever it stands
}

// errBodyTooLarge ends an answer of more than so many bytes.
type errBodyTooLarge int64

func (e errBodyTooLarge) Error() string {
	return fmt.Sprintf("the answer is larger than %d bytes", int64(e))
}

// errBodyTooRich ends an answer of more than so many values.
type errBodyTooRich int

func (e errBodyTooRich) Error() string {
	return fmt.Sprintf("the answer has more than %d marks like , { [ in it", int(e))
}

// Read reads until one of the limits is met.
func (b *limitedBody) Read(p []byte) (int, error) {
	switch {
	case b.left < 0:
		return 0, errBodyTooLarge(b.most)
	case b.marksLeft < 0:
		return 0, errBodyTooRich(b.marks)
	}
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	for _, mark := range []string{",", "{", "["} {
		b.marksLeft -= bytes.Count(p[:n], []byte(mark))
	}
	switch {
	case b.left < 0:
		return n, errBodyTooLarge(b.most)
	case b.marksLeft < 0:
		return n, errBodyTooRich(b.marks)
	}
	return n, err
}
