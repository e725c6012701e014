package kvs

import (
	"bytes"
	"io"
	"net/http"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
)

// transport sends requests from memory. The SDK closes the body of a request as soon as
// the answer begins, which may be before net/http has found out that the body is at its
// end: then net/http takes the request for broken and closes the connection, under an
// answer that is still being read. A clip ended early in one of ten cases. Whoever sends
// a body of their own has nothing closed. [aws-sdk-go-v2 issue 2737]
type transport struct{ *awshttp.BuildableClient }

// Do implements aws.HTTPClient.
func (t transport) Do(r *http.Request) (*http.Response, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return t.BuildableClient.Do(r)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	own := r.Clone(r.Context())
	own.Body, own.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return t.BuildableClient.Do(own)
}
