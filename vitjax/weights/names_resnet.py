"""Names of ResNet: timm and torchvision agree."""

from vitjax.weights.layout import Layout

# Not the first convolution: other models' stems have a conv1 too.
LAYOUTS = (Layout("timm or torchvision", "layer1.0.conv1.weight"),)
