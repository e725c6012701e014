package httpapi

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"time"

	"github.com/gorilla/mux"
	"github.com/opticworks/devicecloud/media"
	"github.com/opticworks/devicecloud/registry"
)

// The refusals of a classification whose status no kind of error has. [contracts B]
var (
	errUnsupportedImage = &httpError{http.StatusUnsupportedMediaType, media.ErrUnsupportedImage.Code, media.ErrUnsupportedImage.Message}
	errModelTimeout     = &httpError{http.StatusGatewayTimeout, media.ErrModelTimeout.Code, media.ErrModelTimeout.Message}
	errImageTooLarge    = &httpError{http.StatusRequestEntityTooLarge, media.ErrImageTooLarge.Code, media.ErrImageTooLarge.Message}
)

// maxUpload is the largest body with a picture: what surrounds it in the form is small.
const maxUpload = media.MaxPicture + 64<<10

// verdictBody is what a model has seen in the picture of an event. [contracts B]
type verdictBody struct {
	Label        string    `json:"label"`
	Confidence   float64   `json:"confidence"`
	Summary      string    `json:"summary"`
	ModelID      string    `json:"model_id"`
	ClassifiedAt time.Time `json:"classified_at"`
}

func newVerdictBody(c media.Classification) verdictBody {
	return verdictBody{string(c.Label), float64(c.Thousandths) / 1000, c.Summary, c.ModelID, c.ClassifiedAt.UTC()}
}

// classificationBody is the answer to who asks for one.
type classificationBody struct {
	EventID string `json:"event_id"`
	verdictBody
}

// classifyEvent says what is to be seen in the picture of an event, which the request
// brings as the part "image" of a form, or which is taken out of the device's stream.
func (a *api) classifyEvent(r *request) (answer, error) {
	id, err := r.deviceID()
	if err != nil {
		return answer{}, err
	}
	eventID := mux.Vars(r.Request)["event_id"]
	if len(eventID) > maxKey {
		eventID = "" // there is none of that name
	}
	form, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	brings := err == nil && form == "multipart/form-data"
	c, err := a.Classifier.Classify(r.Context(), r.actor, id, eventID, brings, func() (*media.Picture, error) {
		if err := a.limits.device(id); err != nil || !brings {
			return nil, err
		}
		return r.picture()
	})
	switch {
	case errors.Is(err, media.ErrUnsupportedImage):
		return answer{}, errUnsupportedImage
	case errors.Is(err, media.ErrModelTimeout):
		return answer{}, errModelTimeout
	case err != nil:
		return answer{}, err
	}
	return ok(classificationBody{number(c.EventID), newVerdictBody(c)})
}

// picture reads the part "image" of a form.
func (r *request) picture() (*media.Picture, error) {
	if r.ContentLength > maxUpload {
		return nil, errImageTooLarge
	}
	r.Body = http.MaxBytesReader(r.w, r.Body, maxUpload)
	form, err := r.MultipartReader()
	if err != nil {
		return nil, invalid("The body is not a form.")
	}
	var tooLarge *http.MaxBytesError
	for {
		part, err := form.NextPart()
		switch {
		case err == io.EOF:
			return nil, invalid("The form has no part named image.")
		case errors.As(err, &tooLarge):
			return nil, errImageTooLarge
		case err != nil:
			return nil, invalid("The body is not a form.")
		case part.FormName() != "image":
			continue
		}
		b, err := io.ReadAll(io.LimitReader(part, media.MaxPicture+1))
		switch {
		case errors.As(err, &tooLarge):
			return nil, errImageTooLarge
		case err != nil:
			return nil, errCut
		}
		p, err := media.NewPicture(b)
		return &p, err
	}
}

// classified adds to a page of events what a model has seen, for who may know.
func (a *api) classified(r *request, deviceID string, rows []registry.Event, events []eventBody) error {
	if len(rows) == 0 {
		return nil
	}
	found, err := a.Classifier.Results(r.Context(), r.actor, deviceID, rows[len(rows)-1].ID, rows[0].ID)
	if err != nil {
		return err
	}
	for i, row := range rows {
		if c, ok := found[row.ID]; ok {
			body := newVerdictBody(c)
			events[i].Classification = &body
		}
	}
	return nil
}
