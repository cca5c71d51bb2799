from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PredictRequest(_message.Message):
    __slots__ = ("model", "version", "images", "top_k")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    images: _containers.RepeatedScalarFieldContainer[bytes]
    top_k: int
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., images: _Optional[_Iterable[bytes]] = ..., top_k: _Optional[int] = ...) -> None: ...

class PredictResponse(_message.Message):
    __slots__ = ("model", "version", "predictions")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    predictions: _containers.RepeatedCompositeFieldContainer[Prediction]
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., predictions: _Optional[_Iterable[_Union[Prediction, _Mapping]]] = ...) -> None: ...

class Prediction(_message.Message):
    __slots__ = ("labels", "unsure", "ood_score", "out_of_distribution")
    LABELS_FIELD_NUMBER: _ClassVar[int]
    UNSURE_FIELD_NUMBER: _ClassVar[int]
    OOD_SCORE_FIELD_NUMBER: _ClassVar[int]
    OUT_OF_DISTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    labels: _containers.RepeatedCompositeFieldContainer[ScoredLabel]
    unsure: bool
    ood_score: float
    out_of_distribution: bool
    def __init__(self, labels: _Optional[_Iterable[_Union[ScoredLabel, _Mapping]]] = ..., unsure: _Optional[bool] = ..., ood_score: _Optional[float] = ..., out_of_distribution: _Optional[bool] = ...) -> None: ...

class ScoredLabel(_message.Message):
    __slots__ = ("label", "score", "index")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    label: str
    score: float
    index: int
    def __init__(self, label: _Optional[str] = ..., score: _Optional[float] = ..., index: _Optional[int] = ...) -> None: ...

class PredictStreamResponse(_message.Message):
    __slots__ = ("response", "error")
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    response: PredictResponse
    error: Error
    def __init__(self, response: _Optional[_Union[PredictResponse, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("code", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[ModelVersion]
    def __init__(self, models: _Optional[_Iterable[_Union[ModelVersion, _Mapping]]] = ...) -> None: ...

class ModelVersion(_message.Message):
    __slots__ = ("name", "version", "state", "reason")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    state: str
    reason: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class DescribeModelRequest(_message.Message):
    __slots__ = ("model", "version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class DescribeModelResponse(_message.Message):
    __slots__ = ("name", "version", "labels", "input_height", "input_width", "precision", "sha256", "metrics", "abstain_below", "max_batch_size", "execution_plan", "drift", "feature_drift", "out_of_distribution")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    INPUT_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    INPUT_WIDTH_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    ABSTAIN_BELOW_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    EXECUTION_PLAN_FIELD_NUMBER: _ClassVar[int]
    DRIFT_FIELD_NUMBER: _ClassVar[int]
    FEATURE_DRIFT_FIELD_NUMBER: _ClassVar[int]
    OUT_OF_DISTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    input_height: int
    input_width: int
    precision: str
    sha256: str
    metrics: _containers.ScalarMap[str, float]
    abstain_below: float
    max_batch_size: int
    execution_plan: str
    drift: _containers.RepeatedCompositeFieldContainer[Drift]
    feature_drift: FeatureDrift
    out_of_distribution: OutOfDistribution
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., input_height: _Optional[int] = ..., input_width: _Optional[int] = ..., precision: _Optional[str] = ..., sha256: _Optional[str] = ..., metrics: _Optional[_Mapping[str, float]] = ..., abstain_below: _Optional[float] = ..., max_batch_size: _Optional[int] = ..., execution_plan: _Optional[str] = ..., drift: _Optional[_Iterable[_Union[Drift, _Mapping]]] = ..., feature_drift: _Optional[_Union[FeatureDrift, _Mapping]] = ..., out_of_distribution: _Optional[_Union[OutOfDistribution, _Mapping]] = ...) -> None: ...

class Drift(_message.Message):
    __slots__ = ("quantity", "images", "psi", "expected_psi", "js", "alarm")
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    PSI_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_PSI_FIELD_NUMBER: _ClassVar[int]
    JS_FIELD_NUMBER: _ClassVar[int]
    ALARM_FIELD_NUMBER: _ClassVar[int]
    quantity: str
    images: int
    psi: float
    expected_psi: float
    js: float
    alarm: bool
    def __init__(self, quantity: _Optional[str] = ..., images: _Optional[int] = ..., psi: _Optional[float] = ..., expected_psi: _Optional[float] = ..., js: _Optional[float] = ..., alarm: _Optional[bool] = ...) -> None: ...

class FeatureDrift(_message.Message):
    __slots__ = ("images", "mahalanobis", "expected_mahalanobis", "frechet", "alarm")
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    MAHALANOBIS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_MAHALANOBIS_FIELD_NUMBER: _ClassVar[int]
    FRECHET_FIELD_NUMBER: _ClassVar[int]
    ALARM_FIELD_NUMBER: _ClassVar[int]
    images: int
    mahalanobis: float
    expected_mahalanobis: float
    frechet: float
    alarm: bool
    def __init__(self, images: _Optional[int] = ..., mahalanobis: _Optional[float] = ..., expected_mahalanobis: _Optional[float] = ..., frechet: _Optional[float] = ..., alarm: _Optional[bool] = ...) -> None: ...

class OutOfDistribution(_message.Message):
    __slots__ = ("method", "threshold", "false_alarms", "auroc")
    METHOD_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    FALSE_ALARMS_FIELD_NUMBER: _ClassVar[int]
    AUROC_FIELD_NUMBER: _ClassVar[int]
    method: str
    threshold: float
    false_alarms: float
    auroc: float
    def __init__(self, method: _Optional[str] = ..., threshold: _Optional[float] = ..., false_alarms: _Optional[float] = ..., auroc: _Optional[float] = ...) -> None: ...

class GetTrafficRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class SetTrafficRequest(_message.Message):
    __slots__ = ("model", "split", "shadow", "rule")
    class SplitEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class ShadowEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    model: str
    split: _containers.ScalarMap[str, float]
    shadow: _containers.ScalarMap[str, float]
    rule: TrafficRule
    def __init__(self, model: _Optional[str] = ..., split: _Optional[_Mapping[str, float]] = ..., shadow: _Optional[_Mapping[str, float]] = ..., rule: _Optional[_Union[TrafficRule, _Mapping]] = ...) -> None: ...

class TrafficRule(_message.Message):
    __slots__ = ("minimum_images", "max_error_rate", "max_p99_ratio", "max_disagreement", "action")
    MINIMUM_IMAGES_FIELD_NUMBER: _ClassVar[int]
    MAX_ERROR_RATE_FIELD_NUMBER: _ClassVar[int]
    MAX_P99_RATIO_FIELD_NUMBER: _ClassVar[int]
    MAX_DISAGREEMENT_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    minimum_images: int
    max_error_rate: float
    max_p99_ratio: float
    max_disagreement: float
    action: str
    def __init__(self, minimum_images: _Optional[int] = ..., max_error_rate: _Optional[float] = ..., max_p99_ratio: _Optional[float] = ..., max_disagreement: _Optional[float] = ..., action: _Optional[str] = ...) -> None: ...

class Traffic(_message.Message):
    __slots__ = ("model", "split", "shadow", "rule", "decision", "stable", "stored", "seconds", "versions")
    class SplitEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class ShadowEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    STABLE_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    model: str
    split: _containers.ScalarMap[str, float]
    shadow: _containers.ScalarMap[str, float]
    rule: TrafficRule
    decision: TrafficDecision
    stable: str
    stored: bool
    seconds: float
    versions: _containers.RepeatedCompositeFieldContainer[TrafficVersion]
    def __init__(self, model: _Optional[str] = ..., split: _Optional[_Mapping[str, float]] = ..., shadow: _Optional[_Mapping[str, float]] = ..., rule: _Optional[_Union[TrafficRule, _Mapping]] = ..., decision: _Optional[_Union[TrafficDecision, _Mapping]] = ..., stable: _Optional[str] = ..., stored: _Optional[bool] = ..., seconds: _Optional[float] = ..., versions: _Optional[_Iterable[_Union[TrafficVersion, _Mapping]]] = ...) -> None: ...

class TrafficVersion(_message.Message):
    __slots__ = ("version", "loaded", "share", "requests", "errors", "images", "p99_ms", "shadow")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LOADED_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    P99_MS_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    version: str
    loaded: bool
    share: float
    requests: int
    errors: int
    images: int
    p99_ms: float
    shadow: TrafficShadow
    def __init__(self, version: _Optional[str] = ..., loaded: _Optional[bool] = ..., share: _Optional[float] = ..., requests: _Optional[int] = ..., errors: _Optional[int] = ..., images: _Optional[int] = ..., p99_ms: _Optional[float] = ..., shadow: _Optional[_Union[TrafficShadow, _Mapping]] = ...) -> None: ...

class TrafficShadow(_message.Message):
    __slots__ = ("share", "same", "different", "dropped", "failed", "disagreement", "mean_difference")
    SHARE_FIELD_NUMBER: _ClassVar[int]
    SAME_FIELD_NUMBER: _ClassVar[int]
    DIFFERENT_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    DISAGREEMENT_FIELD_NUMBER: _ClassVar[int]
    MEAN_DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    share: float
    same: int
    different: int
    dropped: int
    failed: int
    disagreement: float
    mean_difference: float
    def __init__(self, share: _Optional[float] = ..., same: _Optional[int] = ..., different: _Optional[int] = ..., dropped: _Optional[int] = ..., failed: _Optional[int] = ..., disagreement: _Optional[float] = ..., mean_difference: _Optional[float] = ...) -> None: ...

class TrafficDecision(_message.Message):
    __slots__ = ("action", "version", "reason", "time")
    ACTION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    action: str
    version: str
    reason: str
    time: str
    def __init__(self, action: _Optional[str] = ..., version: _Optional[str] = ..., reason: _Optional[str] = ..., time: _Optional[str] = ...) -> None: ...
