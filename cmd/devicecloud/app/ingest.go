package app

import (
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"time"

	"github.com/opticworks/devicecloud/httpapi"
	"github.com/opticworks/devicecloud/media"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/sqlstore"
)

const (
	// minIngestKey is in bytes: an operator makes these, and whoever records one request
	// may guess at home.
	minIngestKey = 24
	// maxIngestKeys is how many keys there may be at once.
	maxIngestKeys = 32
)

// validKeyID is the form of a key's id. It stands in audit rows and in metrics.
var validKeyID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$`)

// ingestKeys reads INGEST_KEYS. An error names a key by its place: what looks like an
// id may be half a secret.
func (c *Config) ingestKeys() ([]media.IngestKey, error) {
	if c.IngestKeys == "" {
		return nil, nil
	}
	return parseIngestKeys(c.IngestKeys.Reveal())
}

func parseIngestKeys(text string) ([]media.IngestKey, error) {
	var all []media.IngestKey
	seen := map[string]bool{}
	for i, part := range strings.Split(text, ",") {
		id, secret, ok := strings.Cut(strings.TrimSpace(part), ":")
		switch {
		case !ok || !validKeyID.MatchString(id) || secret == "":
			return nil, fmt.Errorf("INGEST_KEYS: key %d must be like k1:secret, its id of letters, digits, - and _", i+1)
		case seen[id]:
			return nil, fmt.Errorf("INGEST_KEYS: key %d has the id of another", i+1)
		case len(all) == maxIngestKeys:
			return nil, fmt.Errorf("INGEST_KEYS: there are more than %d keys", maxIngestKeys)
		}
		seen[id] = true
		all = append(all, media.IngestKey{ID: id, Secret: []byte(secret)})
	}
	return all, nil
}

// weakIngestKeys refuses secrets that would be guessed.
func weakIngestKeys(text string) error {
	keys, err := parseIngestKeys(text)
	if err != nil {
		return nil // refused as what it is
	}
	for i, k := range keys {
		if err := weakText(string(k.Secret), minIngestKey); err != nil {
			return fmt.Errorf("has a secret, number %d, that %w", i+1, err)
		}
	}
	return nil
}

// newIngestor wires the ingestion of events.
func (c *Config) newIngestor(db *sqlstore.DB, reg *registry.Registry, classifier *media.Classifier, options registry.Options, log *slog.Logger) (*media.Ingestor, error) {
	keys, err := c.ingestKeys()
	if err != nil {
		return nil, err
	}
	r := c.LimitIngestPerKey
	return media.NewIngestor(db.Ingest(), media.IngestOptions{
		Keys: keys, Retention: time.Duration(c.HistoryRetentionDays) * 24 * time.Hour, NextID: options.NextID, Logger: log, Tell: reg.Tell,
		Interesting: classifier.Interesting, Queued: classifier.Wake,
		Limit: httpapi.NewLimit(httpapi.Rate{PerSecond: r.PerSecond(), Burst: r.Burst}),
	}), nil
}
