package bedrock

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime/document"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime/types"
	"github.com/aws/smithy-go"
	"github.com/opticworks/devicecloud/media"
	"github.com/opticworks/devicecloud/registry"
)

// Model is a model of Amazon Bedrock. It is safe for concurrent use.
type Model struct {
	client *bedrockruntime.Client
	keys   aws.CredentialsProvider
	id     string
}

// New is the model, or the inference profile, of an id. It makes no call. Calls are not
// repeated: each is paid for.
func New(c aws.Config, id string) *Model {
	return &Model{bedrockruntime.NewFromConfig(c, func(o *bedrockruntime.Options) { o.Retryer = aws.NopRetryer{} }), c.Credentials, id}
}

// See implements [media.Model].
func (m *Model) See(ctx context.Context, p media.Picture) ([]byte, error) {
	if m.keys == nil {
		return nil, registry.ErrFeatureDisabled
	}
	if _, err := m.keys.Retrieve(ctx); err != nil { // the SDK keeps what it has found
		return nil, registry.ErrFeatureDisabled.With(err)
	}
	out, err := m.client.Converse(ctx, &bedrockruntime.ConverseInput{
		ModelId: aws.String(m.id),
		System:  []types.SystemContentBlock{&types.SystemContentBlockMemberText{Value: instruction}},
		Messages: []types.Message{{Role: types.ConversationRoleUser, Content: []types.ContentBlock{
			&types.ContentBlockMemberImage{Value: types.ImageBlock{Format: types.ImageFormat(p.Format), Source: &types.ImageSourceMemberBytes{Value: p.Bytes}}},
			&types.ContentBlockMemberText{Value: request},
		}}},
		InferenceConfig: &types.InferenceConfiguration{Temperature: aws.Float32(temperature), MaxTokens: aws.Int32(maxTokens)},
		ToolConfig: &types.ToolConfiguration{
			Tools: []types.Tool{&types.ToolMemberToolSpec{Value: types.ToolSpecification{
				Name: aws.String(toolName), Description: aws.String("Reports what is to be seen in the picture."),
				InputSchema: &types.ToolInputSchemaMemberJson{Value: document.NewLazyDocument(schema())},
			}}},
			ToolChoice: &types.ToolChoiceMemberTool{Value: types.SpecificToolChoice{Name: aws.String(toolName)}},
		},
	})
	if err != nil {
		return nil, translate(ctx, err)
	}
	return input(out)
}

var errNoToolUse = errors.New("bedrock: the model did not call the tool once")

// input is what the model called the tool with.
func input(out *bedrockruntime.ConverseOutput) ([]byte, error) {
	message, ok := out.Output.(*types.ConverseOutputMemberMessage)
	if !ok || out.StopReason == types.StopReasonMaxTokens { // cut in the middle
		return nil, media.ErrModelBadOutput.With(errNoToolUse)
	}
	var used []types.ToolUseBlock
	for _, block := range message.Value.Content {
		if use, ok := block.(*types.ContentBlockMemberToolUse); ok {
			used = append(used, use.Value)
		}
	}
	if len(used) != 1 || aws.ToString(used[0].Name) != toolName || used[0].Input == nil {
		return nil, media.ErrModelBadOutput.With(errNoToolUse)
	}
	text, err := used[0].Input.MarshalSmithyDocument()
	if err != nil {
		return nil, media.ErrModelBadOutput.With(err)
	}
	return text, nil
}

// known are the exceptions of Bedrock that mean something to whoever asked. [contracts B]
var known = map[string]*registry.Error{
	"ThrottlingException":           media.ErrModelBusy,
	"ServiceQuotaExceededException": media.ErrModelBusy,
	"ModelNotReadyException":        media.ErrModelBusy,
	"ModelTimeoutException":         media.ErrModelTimeout,
	"ModelErrorException":           media.ErrUnavailable,
	"ServiceUnavailableException":   media.ErrUnavailable,
	"InternalServerException":       media.ErrUnavailable,
	"AccessDeniedException":         media.ErrDenied,
	"ResourceNotFoundException":     media.ErrDenied,
}

// translate makes an error of the SDK one of package media. Any refusal that is not
// known is our own configuration's fault and never the caller's.
func translate(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return media.ErrModelTimeout.With(err)
	}
	var api smithy.APIError
	if errors.As(err, &api) {
		if e, ok := known[api.ErrorCode()]; ok {
			return e.With(err)
		}
		if api.ErrorCode() == "ValidationException" && strings.Contains(strings.ToLower(api.ErrorMessage()), "image") {
			return media.ErrUnsupportedImage.With(err) // it begins like an image and is none
		}
		status := http.StatusBadRequest
		var response *awshttp.ResponseError
		if errors.As(err, &response) {
			status = response.HTTPStatusCode()
		}
		switch {
		case status == http.StatusTooManyRequests:
			return media.ErrModelBusy.With(err)
		case status >= http.StatusBadRequest && status < http.StatusInternalServerError:
			return media.ErrDenied.With(err)
		}
		return media.ErrUnavailable.With(err)
	}
	var response *awshttp.ResponseError
	if errors.As(err, &response) && response.HTTPStatusCode() == http.StatusOK {
		return media.ErrModelBadOutput.With(err) // it is not what the API says
	}
	return media.ErrUnavailable.With(err)
}
