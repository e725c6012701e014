package media

import (
	"context"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// Label is what a model saw in the picture of an event. [contracts B]
type Label string

// The labels. A model that says anything else has said LabelUnknown.
const (
	LabelPerson  Label = "person"
	LabelVehicle Label = "vehicle"
	LabelAnimal  Label = "animal"
	LabelPackage Label = "package"
	LabelNone    Label = "none"
	LabelUnknown Label = "unknown"
)

// Labels lists them, LabelUnknown last.
func Labels() []Label {
	return []Label{LabelPerson, LabelVehicle, LabelAnimal, LabelPackage, LabelNone, LabelUnknown}
}

// ClassificationStatus is how far a classification is.
type ClassificationStatus string

// The statuses of a classification.
const (
	ClassificationWaiting ClassificationStatus = "waiting"
	ClassificationRunning ClassificationStatus = "running"
	ClassificationDone    ClassificationStatus = "done"
	ClassificationFailed  ClassificationStatus = "failed"
)

// Classification is what a model saw in the picture of an event, or is still to see.
// There is one for each event and model.
type Classification struct {
	EventID      int64
	ModelID      string
	DeviceNo     int64
	DeviceID     string
	Status       ClassificationStatus
	Attempts     int
	Claim        int64     // of who is at it
	DueAt        time.Time // waiting: when to begin; running: when the claim lapses
	Label        Label
	Thousandths  int64  // of confidence, 0 to 1000
	Summary      string // at most 200 characters of plain text
	Error        string // code of why it failed
	CreatedAt    time.Time
	ClassifiedAt time.Time
}

// ClassifyStore is what classification needs of a database.
type ClassifyStore interface {
	// ClassifyView runs f on one read-only snapshot.
	ClassifyView(ctx context.Context, f func(ClassifyTx) error) error
	// ClassifyTx runs f in one durable write transaction; see registry.Store.
	ClassifyTx(ctx context.Context, f func(ClassifyTx) error) error
}

// ClassifyTx is one transaction over classifications and the tables of devices.
type ClassifyTx interface {
	registry.Tx
	// FindEvent reads an event of a device by its id, or by what its sender calls it.
	FindEvent(ctx context.Context, deviceNo int64, id string) (e registry.Event, ok bool, err error)
	// ClaimClassification takes the right to ask the model, for whoever c.Claim is,
	// until a time: of a classification that is new, waits, has failed, or whose claim
	// has lapsed. claimed is false when it is done or somebody else is at it.
	ClaimClassification(ctx context.Context, c Classification, now, until time.Time) (claimed bool, err error)
	// FinishClassification writes the result, only while the claim is c's.
	FinishClassification(ctx context.Context, c Classification) (changed bool, err error)
	// ReleaseClassification gives up the claim, only while it is c's: to wait until a
	// time, or, with the zero time, as failed.
	ReleaseClassification(ctx context.Context, c Classification, why string, again time.Time) error
	// Classification reads one; ok is false when there is none.
	Classification(ctx context.Context, eventID int64, modelID string) (c Classification, ok bool, err error)
	// DueClassifications lists those of a model that wait or whose claim has lapsed,
	// the longest due first.
	DueClassifications(ctx context.Context, modelID string, now time.Time, limit int) ([]Classification, error)
	// Classifications lists what is done of a device's events from one id to another.
	Classifications(ctx context.Context, deviceNo, from, to int64) ([]Classification, error)
	// ChargeClassification counts a call on a day; charged is false when there were
	// limit already. Two at once cannot pass the limit.
	ChargeClassification(ctx context.Context, deviceNo, day int64, limit int) (charged bool, err error)
	// RefundClassification takes a call back that cost nothing.
	RefundClassification(ctx context.Context, deviceNo, day int64) error
	// DeleteClassificationDays deletes at most limit counts of days before one.
	DeleteClassificationDays(ctx context.Context, before int64, limit int) (int, error)
}
