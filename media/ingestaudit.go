package media

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// unknownKey stands in audit for every key that is not configured: an attacker who
// makes up key ids gets one row a minute and reason, as everybody does.
const unknownKey = "unknown"

// auditedMinutes remembers the last minute of each key and reason that has its audit
// row, so that what is repeated costs no transaction. The keys are those configured and
// one for all others, the reasons those of this package: it stays small.
type auditedMinutes struct {
	mu   sync.Mutex
	last map[[2]string]int64
}

// first reports whether the minute is new to this process, and takes it.
func (a *auditedMinutes) first(key, reason string, minute int64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.last == nil {
		a.last = map[[2]string]int64{}
	}
	name := [2]string{key, reason}
	if at, seen := a.last[name]; seen && at >= minute {
		return false
	}
	a.last[name] = minute
	return true
}

// forget gives a minute back whose row was not written.
func (a *auditedMinutes) forget(key, reason string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.last, [2]string{key, reason})
}

// refused counts a delivery, or an event of it, that was not taken, and keeps an audit
// row of it: one for each key, reason and minute, on all nodes together, so that
// nobody fills the table. [contracts F]
func (s *Ingestor) refused(ctx context.Context, d Delivery, cause error, deviceID string) {
	reason := registry.ErrUnavailable.Code
	if own := (*registry.Error)(nil); errors.As(cause, &own) {
		reason = own.Code
	}
	event := "ingest_refused"
	if errors.Is(cause, errDuplicate) {
		event = "ingest_duplicate"
		s.counters.Duplicates.Add(1)
	} else {
		s.counters.Refused.Add(1)
	}
	if errors.Is(cause, ErrIngestNotConfigured) {
		return // the operator's affair, and in the log
	}
	key := unknownKey
	if len(d.KeyID) == 1 {
		if _, known := s.keys[d.KeyID[0]]; known {
			key = d.KeyID[0]
		}
	}
	now := s.now()
	minute := now.Unix() / 60
	if !s.audited.first(key, reason, minute) {
		return
	}
	data := map[string]any{"reason": reason, "key_id": key, "signature": beginning(d.Signature)}
	err := s.store.IngestTx(ctx, func(tx IngestTx) error {
		first, err := tx.MarkIngestAudit(ctx, key, reason, minute)
		if err != nil || !first {
			return err
		}
		return tx.InsertAudit(ctx, registry.AuditEvent{
			ID: s.opts.NextID(), Domain: "media", DeviceID: deviceID, Event: event, Data: data, Actor: registry.Actor{Kind: actorIngest, ID: key}.String(),
			RequestID: d.From.RequestID, IP: d.From.IP, UserAgent: d.From.UserAgent, Client: d.From.ClientType, At: now,
		})
	})
	if err != nil {
		s.audited.forget(key, reason)
		s.log.Warn("a refused delivery has no audit row", "reason", reason, "key_id", key, "at", now.Format(time.RFC3339), "error", err)
	}
}

// beginning is the first 8 characters of a presented signature that are hex: enough to
// find the sender's own log line, and of no use to anybody else.
func beginning(values []string) string {
	for _, s := range values {
		if len(s) < 3 || s[:3] != "v1=" {
			continue
		}
		n := 0
		for s = s[3:]; n < len(s) && n < 8 && isHex(s[n]); n++ {
		}
		return s[:n]
	}
	return ""
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'f'
}
